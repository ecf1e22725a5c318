package sign_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/cosign/v2/pkg/oci/empty"
	"github.com/sigstore/cosign/v2/pkg/oci/mutate"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/sign"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// place is where artifacts are put; later ones take a tag from earlier ones, as in a registry.
type place struct {
	blobs map[digest.Digest][]byte
	refs  []media.Referrer
	err   error
}

func newPlace(artifacts ...sign.Artifact) *place {
	p := &place{blobs: make(map[digest.Digest][]byte)}
	p.put(artifacts...)
	return p
}

func (p *place) put(artifacts ...sign.Artifact) {
	for _, a := range artifacts {
		for _, b := range a.Blobs {
			p.blobs[b.Digest] = b.Data
		}
		p.refs = slices.DeleteFunc(p.refs, func(r media.Referrer) bool { return a.Tag != "" && r.Tag == a.Tag })
		p.refs = append(p.refs, media.Referrer{Descriptor: a.Manifest, Tag: a.Tag})
	}
}

func (p *place) Open(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	data, ok := p.blobs[d.Digest]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (p *place) Referrers(context.Context, digest.Digest) ([]media.Referrer, error) {
	return p.refs, p.err
}

// who gives the ids of the keys that signed in each form, sorted.
func (p *place) who(t *testing.T, signers ...*sign.Signer) map[attest.Form][]string {
	t.Helper()
	var policy attest.Policy
	for _, s := range signers {
		policy.ReleaseKeys = append(policy.ReleaseKeys, s.Public())
	}
	found, err := attest.VerifyManifestSignatures(t.Context(), p, subject, policy)
	if err != nil {
		t.Fatal(err)
	}
	by := make(map[attest.Form][]string)
	for _, f := range found {
		by[f.Form] = append(by[f.Form], f.KeyID)
	}
	for _, ids := range by {
		slices.Sort(ids)
	}
	return by
}

func newSigners(t *testing.T, n int) sign.Signers {
	t.Helper()
	var all []*sign.Signer
	for i := range n {
		s, err := sign.LoadSigner(pkcs8(t, newKey(t, []sign.Kind{sign.ECDSA, sign.Ed25519}[i%2])), nil)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	signers, err := sign.NewSigners(all...)
	if err != nil {
		t.Fatal(err)
	}
	return signers
}

func ids(signers ...*sign.Signer) []string {
	var all []string
	for _, s := range signers {
		all = append(all, s.KeyID())
	}
	return all
}

func TestSeveralSigners(t *testing.T) {
	signers := newSigners(t, 3)
	if !slices.IsSorted(ids(signers...)) {
		t.Error("the order in which they are given decides the bytes")
	}
	artifacts, err := signers.SignManifest(subject, repository)
	if err != nil {
		t.Fatal(err)
	}
	if len(artifacts) != 4 || artifacts[3].Tag != attest.LegacyTag(subject.Digest) {
		t.Fatalf("%d artifacts", len(artifacts))
	}
	p := newPlace(artifacts...)
	for form, got := range p.who(t, signers...) {
		if !slices.Equal(got, ids(signers...)) {
			t.Errorf("%s: by %q, want %q", form, got, ids(signers...))
		}
	}
	for i, s := range signers {
		if err := sigstoreVerify(t, artifacts[i].Blobs[1].Data, s.Public(), subject.Digest); err != nil {
			t.Error(err)
		}
	}
	// One after the other is the same as at once, when it comes in the order of the keys.
	q := newPlace()
	for _, s := range signers {
		made, err := sign.Signers{s}.Missing(t.Context(), q, subject, repository)
		if err != nil {
			t.Fatal(err)
		}
		q.put(made...)
	}
	tag := func(r media.Referrer) bool { return r.Tag != "" }
	if a, b := p.refs[slices.IndexFunc(p.refs, tag)], q.refs[slices.IndexFunc(q.refs, tag)]; a.Digest != b.Digest || len(p.refs) != len(q.refs) {
		t.Errorf("%+v and %+v", p.refs, q.refs)
	}
}

// The manifest with several layers is what cosign makes of the same signatures.
func TestSeveralLayersAreCosigns(t *testing.T) {
	signers := newSigners(t, 3)
	artifacts, err := signers.SignManifest(subject, repository)
	if err != nil {
		t.Fatal(err)
	}
	legacy := artifacts[3]
	config, manifest := legacy.Blobs[0], legacy.Blobs[len(legacy.Blobs)-1]
	var m ocispec.Manifest
	if err := strictjson.Unmarshal(manifest.Data, &m); err != nil {
		t.Fatal(err)
	}
	image, err := name.NewDigest(repository + "@" + subject.Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	message, err := payload.Cosign{Image: image}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	theirs := empty.Signatures()
	for _, layer := range m.Layers {
		sig, err := static.NewSignature(message, layer.Annotations[attest.AnnotationSignature])
		if err != nil {
			t.Fatal(err)
		}
		if theirs, err = mutate.AppendSignatures(theirs, false, sig); err != nil {
			t.Fatal(err)
		}
	}
	theirManifest, err := theirs.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	theirConfig, err := theirs.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Layers) != 3 || !bytes.Equal(config.Data, theirConfig) {
		t.Errorf("config %s, cosign writes %s", config.Data, theirConfig)
	}
	if !reflect.DeepEqual(decoded(t, manifest.Data), decoded(t, theirManifest)) {
		t.Errorf("manifest %s, cosign writes %s", manifest.Data, theirManifest)
	}
}

func TestMissing(t *testing.T) {
	signers := newSigners(t, 3)
	one, two, three := signers[0], signers[1], signers[2]
	artifacts, err := two.SignManifest(subject, repository)
	if err != nil {
		t.Fatal(err)
	}
	missing := func(p *place, s ...*sign.Signer) []sign.Artifact {
		t.Helper()
		made, err := sign.Signers(s).Missing(t.Context(), p, subject, repository)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	if made := missing(newPlace(artifacts...), two); len(made) != 0 {
		t.Errorf("signed again: %+v", made)
	}
	if made := missing(newPlace(artifacts[0]), two); len(made) != 1 || made[0].Tag == "" {
		t.Errorf("without the legacy form: %+v", made)
	}
	if made := missing(newPlace(artifacts[1]), two); len(made) != 1 || made[0].Tag != "" {
		t.Errorf("without the bundle: %+v", made)
	}
	p := newPlace(artifacts...)
	p.put(missing(p, one, two)...)
	p.put(missing(p, three)...)
	for form, got := range p.who(t, signers...) {
		if !slices.Equal(got, ids(signers...)) {
			t.Errorf("%s: by %q", form, got)
		}
	}
	// A signature by the right key for something else, or a damaged one, is none.
	other, err := one.SignManifest(ocispec.Descriptor{MediaType: subject.MediaType, Digest: digest.FromString("other"), Size: 5}, repository)
	if err != nil {
		t.Fatal(err)
	}
	other[1].Tag = attest.LegacyTag(subject.Digest)
	if made := missing(newPlace(other...), one); len(made) != 2 {
		t.Errorf("%+v", made)
	}
}

// What is at the tag and is not understood is not replaced; what cannot be read is not taken for nothing.
func TestMissingKeepsWhatItDoesNotKnow(t *testing.T) {
	s := newSigners(t, 1)
	for what, m := range map[string]ocispec.Manifest{
		"another media type": {MediaType: "application/vnd.docker.distribution.manifest.v2+json"},
		"an artifact":        {MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "x"},
		"annotations":        {MediaType: ocispec.MediaTypeImageManifest, Annotations: map[string]string{"a": "b"}},
	} {
		m.Versioned = specs.Versioned{SchemaVersion: 2}
		data, err := strictjson.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		p := newPlace(sign.Artifact{Tag: attest.LegacyTag(subject.Digest),
			Manifest: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(data), Size: int64(len(data))},
			Blobs:    []sign.Blob{{Descriptor: ocispec.Descriptor{Digest: digest.FromBytes(data)}, Data: data}}})
		if made, err := s.Missing(t.Context(), p, subject, repository); err == nil {
			t.Errorf("%s: %+v", what, made)
		}
	}
	gone := newPlace()
	gone.refs = []media.Referrer{{Descriptor: subject, Tag: attest.LegacyTag(subject.Digest)}}
	if _, err := s.Missing(t.Context(), gone, subject, repository); err == nil {
		t.Error("a manifest that is missing was replaced")
	}
	broken := newPlace()
	broken.err = errors.New("the link is down")
	if _, err := s.Missing(t.Context(), broken, subject, repository); !errors.Is(err, broken.err) {
		t.Error(err)
	}
	// Not more than verifiers read.
	full := newPlace()
	for i := range attest.MaxLayers + 1 {
		made, err := newSigners(t, 1).Missing(t.Context(), full, subject, repository)
		if i < attest.MaxLayers {
			if err != nil {
				t.Fatal(err)
			}
			full.put(made[len(made)-1])
		} else if err == nil || !strings.Contains(err.Error(), "the limit is 32") {
			t.Error(err)
		}
	}
}

func TestOneKeyOneRole(t *testing.T) {
	signers := newSigners(t, 3)
	var same *sign.SameKeyError
	if _, err := sign.NewSigners(signers[0], signers[1], signers[0]); !errors.As(err, &same) || same.Roles || same.KeyID != signers[0].KeyID() {
		t.Error(err)
	}
	if err := sign.CheckRoles(signers[:2], signers[1:]); !errors.As(err, &same) || !same.Roles || same.KeyID != signers[1].KeyID() {
		t.Error(err)
	}
	if err := sign.CheckRoles(signers[:2], signers[2:]); err != nil {
		t.Error(err)
	}
	if s, err := sign.NewSigners(); err != nil || len(s) != 0 {
		t.Error(s, err)
	}
	if _, err := (sign.Signers{}).SignManifest(subject, repository); err == nil {
		t.Error("nobody signed")
	}
}

// An auditor's rebuild takes over what a plugin signed, and the next build with the same plugin does not sign it again.
func TestRecordedAndRecalled(t *testing.T) {
	key := newKey(t, sign.ECDSA)
	dir := withPlugin(t, key)
	open := func(mode string) *sign.Signer {
		t.Helper()
		s, err := sign.Open(t.Context(), "filekms://"+mode+dir, sign.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := open("good")
	made, err := first.SignManifest(subject, repository)
	if err != nil {
		t.Fatal(err)
	}
	p := newPlace(made...)
	b := &bundle.Bundle{Lock: &bundle.Lock{}}
	for _, a := range made {
		b.Lock.Items = append(b.Lock.Items, bundle.Item{Name: filepath.Base(a.Tag), Kind: bundle.KindReferrer, Descriptor: a.Manifest})
	}
	same := func(s *sign.Signer) {
		t.Helper()
		again, err := s.SignManifest(subject, repository)
		if err != nil || again[0].Manifest.Digest != made[0].Manifest.Digest || again[1].Manifest.Digest != made[1].Manifest.Digest {
			t.Errorf("%+v, %v", again, err)
		}
	}
	auditor, err := sign.Recorded(t.Context(), p, b, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	same(auditor)
	next := open("refuse") // it would fail if it were asked
	if err := next.Recall(t.Context(), p, b); err != nil {
		t.Fatal(err)
	}
	same(next)
	stranger := open("good")
	forged := newSigners(t, 1)
	foreign, err := forged.SignManifest(subject, repository)
	if err != nil {
		t.Fatal(err)
	}
	q := newPlace(foreign...)
	b.Lock.Items = nil
	for _, a := range foreign {
		b.Lock.Items = append(b.Lock.Items, bundle.Item{Kind: bundle.KindReferrer, Descriptor: a.Manifest})
	}
	if err := stranger.Recall(t.Context(), q, b); err != nil {
		t.Fatal(err)
	}
	mine, err := stranger.SignManifest(subject, repository)
	if err != nil || sigstoreVerify(t, mine[0].Blobs[1].Data, key.Public(), subject.Digest) != nil {
		t.Errorf("took over somebody else's signature: %v", err)
	}
	if err := forged.Recall(t.Context(), newPlace(), b); err != nil {
		t.Errorf("a deterministic key reads nothing: %v", err)
	}
}
