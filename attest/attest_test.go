package attest_test

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/sign"
	"github.com/plimsoll/plimsoll/bundle"
)

const repository = "ghcr.io/acme/robot-stack"

func TestVerifyReleaseAcceptsEitherForm(t *testing.T) {
	generated, err := sign.GenerateKey([]byte("s3cret"))
	if err != nil {
		t.Fatal(err)
	}
	ecdsaSigner, err := sign.LoadSigner(generated.Private, []byte("s3cret"))
	if err != nil {
		t.Fatal(err)
	}
	root := release("index")
	for name, signer := range map[string]*sign.Signer{"ecdsa": ecdsaSigner, "ed25519": newIdentity(t, 1).signer} {
		artifacts, err := signer.SignManifest(root, repository)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name string
			give []sign.Artifact
			want []attest.Form
		}{
			{"both", artifacts, []attest.Form{attest.FormBundle, attest.FormSimpleSigning}},
			{"bundle", artifacts[:1], []attest.Form{attest.FormBundle}},
			{"legacy", artifacts[1:], []attest.Form{attest.FormSimpleSigning}},
		} {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				ev := newEvidence()
				ev.add(root, c.give...)
				other := newIdentity(t, 9).signer.Public()
				v, err := attest.VerifyRelease(t.Context(), ev, root, attest.Policy{ReleaseKeys: []crypto.PublicKey{other, signer.Public()}})
				if err != nil {
					t.Fatal(err)
				}
				if got := v.Root(); got.Digest != root.Digest || got.Size != root.Size || got.MediaType != root.MediaType {
					t.Errorf("root %v, want %v", got, root)
				}
				got := v.Signatures()
				if len(got) != len(c.want) {
					t.Fatalf("%d signatures, want %d", len(got), len(c.want))
				}
				for i, s := range got {
					if s.Form != c.want[i] || s.KeyID != signer.KeyID() || s.Manifest != c.give[i].Manifest.Digest {
						t.Errorf("signature %d: %+v", i, s)
					}
				}
			})
		}
	}
}

// denial is one arrangement of evidence that must not pass for a release signed by identity 1.
type denial struct {
	name   string
	give   func(t *testing.T, ev *evidence)
	reason attest.Reason
	text   string
}

func checkDenials(t *testing.T, root ocispec.Descriptor, denials []denial) {
	t.Helper()
	policy := newIdentity(t, 1).policy()
	for _, c := range denials {
		t.Run(c.name, func(t *testing.T) {
			ev := newEvidence()
			c.give(t, ev)
			v, err := attest.VerifyRelease(t.Context(), ev, root, policy)
			var denied *attest.DeniedError
			if !errors.As(err, &denied) || v != nil {
				t.Fatalf("got %v, %v; want *DeniedError", v, err)
			}
			if denied.Reason != c.reason || denied.Subject != root.Digest {
				t.Errorf("reason %q for %s, want %q for %s", denied.Reason, denied.Subject, c.reason, root.Digest)
			}
			if text := err.Error() + "\n" + strings.Join(denied.Details(), "\n"); !strings.Contains(text, c.text) {
				t.Errorf("text %q does not contain %q", text, c.text)
			}
		})
	}
}

func TestVerifyReleaseDenies(t *testing.T) {
	root, elsewhere := release("index"), release("another index")
	us, stranger := newIdentity(t, 1), newIdentity(t, 2)
	must := func(a []sign.Artifact, err error) []sign.Artifact {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	one := func(a sign.Artifact, err error) []sign.Artifact { return must([]sign.Artifact{a}, err) }
	spdx := attest.Statement{PredicateType: "https://spdx.dev/Document", Predicate: []byte(`{"spdxVersion":"SPDX-2.3"}`)}
	checkDenials(t, root, []denial{
		{"nothing", func(*testing.T, *evidence) {}, attest.NoSignature, "no signature found"},
		{"unknown key", func(_ *testing.T, ev *evidence) {
			ev.add(root, must(stranger.signer.SignManifest(root, repository))...)
		},
			attest.UnknownKey, "2 signatures found, none by a trusted key"},
		{"attestation by the release key", func(_ *testing.T, ev *evidence) { ev.add(root, one(us.signer.Attest(spdx, root))...) },
			attest.WrongPredicate, `signed a statement of type "https://spdx.dev/Document"`},
		{"attestation by another key", func(_ *testing.T, ev *evidence) { ev.add(root, one(stranger.signer.Attest(spdx, root))...) },
			attest.NoSignature, "no signature found, only 1 attestation"},
		{"signature of another release at our place", func(_ *testing.T, ev *evidence) {
			ev.add(root, must(us.signer.SignManifest(elsewhere, repository))[:1]...)
		}, attest.WrongSubject, elsewhere.Digest.Encoded()},
	})
}

func TestVerifyReleaseDeniesEnvelopes(t *testing.T) {
	root, elsewhere := release("index"), release("another index")
	us, stranger := newIdentity(t, 1), newIdentity(t, 2)
	intoto := attest.PayloadTypeInToto
	good := signStatement(root.Digest)
	checkDenials(t, root, []denial{
		{"flipped payload", func(t *testing.T, ev *evidence) {
			flipped := []byte(good)
			flipped[len(flipped)-2] ^= 1
			ev.bundle(t, root, sigstoreBundle(t, "", intoto, flipped, us.dsse(intoto, []byte(good))))
		}, attest.UnknownKey, "1 signature found, none by a trusted key"},
		{"the signature without the DSSE pre-authentication encoding", func(t *testing.T, ev *evidence) {
			ev.bundle(t, root, sigstoreBundle(t, "", intoto, []byte(good), us.raw([]byte(good))))
		}, attest.UnknownKey, "none by a trusted key"},
		{"a second signature by a stranger", func(t *testing.T, ev *evidence) {
			ev.bundle(t, root, sigstoreBundle(t, "", intoto, []byte(good), us.dsse(intoto, []byte(good)), stranger.dsse(intoto, []byte(good))))
		}, attest.Malformed, "2 signatures, want exactly 1"},
		{"no signature in the envelope", func(t *testing.T, ev *evidence) { ev.bundle(t, root, sigstoreBundle(t, "", intoto, []byte(good))) },
			attest.Malformed, "0 signatures, want exactly 1"},
		{"another payload type", func(t *testing.T, ev *evidence) {
			ev.bundle(t, root, sigstoreBundle(t, "", "text/plain", []byte(good), us.dsse("text/plain", []byte(good))))
		}, attest.Malformed, `payload type "text/plain"`},
		{"a stranger's signature with our key hint", func(t *testing.T, ev *evidence) {
			hint := newHint(t, us.signer.Public())
			ev.bundle(t, root, sigstoreBundle(t, hint, intoto, []byte(good), stranger.dsse(intoto, []byte(good))))
		}, attest.UnknownKey, "none by a trusted key"},
		{"duplicate key in the bundle", func(t *testing.T, ev *evidence) {
			data := us.signed(t, good)
			ev.bundle(t, root, append([]byte(`{"mediaType":"`+attest.MediaTypeBundle+`",`), data[1:]...))
		}, attest.Malformed, `duplicate key "mediaType"`},
		{"attached to something else", func(t *testing.T, ev *evidence) {
			ev.manifest(t, root, "", ocispec.Manifest{ArtifactType: attest.MediaTypeBundle, Subject: &elsewhere,
				Layers: []ocispec.Descriptor{ev.blob(attest.MediaTypeBundle, us.signed(t, good))}})
		}, attest.WrongSubject, "attached to something else"},
		{"an older bundle format", func(t *testing.T, ev *evidence) {
			ev.bundle(t, root, []byte(strings.Replace(string(us.signed(t, good)), "bundle.v0.3+json", "bundle+json;version=0.2", 1)))
		}, attest.Malformed, "version=0.2"},
		{"a certificate instead of a key", func(t *testing.T, ev *evidence) {
			ev.bundle(t, root, []byte(strings.Replace(string(us.signed(t, good)), `"publicKey":{"hint":""}`, `"certificate":{"rawBytes":"`+newCertificate(t)+`"}`, 1)))
		}, attest.UnknownKey, "signed with a certificate"},
		{"a bundle larger than allowed", func(t *testing.T, ev *evidence) {
			ev.bundle(t, root, us.signed(t, good+strings.Repeat(" ", attest.MaxSignature)))
		}, attest.Malformed, "the limit is 4194304"},
	})
}

func TestVerifyReleaseDeniesStatements(t *testing.T) {
	root, elsewhere := release("index"), release("another index")
	us := newIdentity(t, 1)
	good := signStatement(root.Digest)
	checkDenials(t, root, []denial{
		{"statement with two subjects", func(t *testing.T, ev *evidence) {
			both := strings.Replace(good, `}],"predicateType"`, fmt.Sprintf(`},{"digest":{"sha256":"%s"}}],"predicateType"`, elsewhere.Digest.Encoded()), 1)
			ev.bundle(t, root, us.signed(t, both))
		}, attest.WrongSubject, "signed 2 subjects"},
		{"subject with two digests", func(t *testing.T, ev *evidence) {
			ev.bundle(t, root, us.signed(t, strings.Replace(good, `{"sha256"`, `{"sha512":"00","sha256"`, 1)))
		}, attest.WrongSubject, "sha512"},
		{"digest in the name of another algorithm", func(t *testing.T, ev *evidence) {
			ev.bundle(t, root, us.signed(t, strings.Replace(good, `"sha256"`, `"sha512"`, 1)))
		}, attest.WrongSubject, "sha512"},
		{"duplicate key in the statement", func(t *testing.T, ev *evidence) {
			ev.bundle(t, root, us.signed(t, strings.Replace(good, `"predicate":{}`, `"predicate":{},"predicateType":"https://sigstore.dev/cosign/sign/v1"`, 1)))
		}, attest.Malformed, `duplicate key "predicateType"`},
		{"a case variant in the statement", func(t *testing.T, ev *evidence) {
			ev.bundle(t, root, us.signed(t, strings.Replace(good, `"predicate":{}`, `"PredicateType":"x"`, 1)))
		}, attest.Malformed, `"PredicateType"`},
		{"another statement type", func(t *testing.T, ev *evidence) {
			ev.bundle(t, root, us.signed(t, strings.Replace(good, "Statement/v1", "Statement/v0.1", 1)))
		}, attest.Malformed, "_type"},
	})
}

func TestVerifyReleaseDeniesLegacy(t *testing.T) {
	root, elsewhere := release("index"), release("another index")
	us := newIdentity(t, 1)
	simple := []byte(simplePayload(root.Digest))
	checkDenials(t, root, []denial{
		{"legacy signature of another release at our tag", func(t *testing.T, ev *evidence) {
			payload := []byte(simplePayload(elsewhere.Digest))
			ev.legacy(t, root, payload, us.raw(payload))
		}, attest.WrongSubject, elsewhere.Digest.String()},
		{"flipped legacy payload", func(t *testing.T, ev *evidence) {
			ev.legacy(t, root, append([]byte(" "), simple...), us.raw(simple))
		}, attest.UnknownKey, "1 signature found, none by a trusted key"},
		{"duplicate key in the legacy payload", func(t *testing.T, ev *evidence) {
			twice := []byte(strings.Replace(string(simple), `"image":`, fmt.Sprintf(`"image":{"docker-manifest-digest":"%s"},"image":`, elsewhere.Digest), 1))
			ev.legacy(t, root, twice, us.raw(twice))
		}, attest.Malformed, `duplicate key "image"`},
		{"another legacy type", func(t *testing.T, ev *evidence) {
			atomic := []byte(strings.Replace(string(simple), "cosign container image signature", "atomic container signature", 1))
			ev.legacy(t, root, atomic, us.raw(atomic))
		}, attest.Malformed, "atomic container signature"},
		{"no legacy signature", func(t *testing.T, ev *evidence) { ev.legacy(t, root, simple, nil) },
			attest.Malformed, "no annotation"},
	})
}

// A second signer beside a good one changes nothing, and a good one is found behind bad ones.
func TestVerifyReleaseLooksAtEverySignature(t *testing.T) {
	root := release("index")
	us, stranger := newIdentity(t, 1), newIdentity(t, 2)
	ev := newEvidence()
	ev.bundle(t, root, []byte("{"))
	for _, s := range []*sign.Signer{stranger.signer, us.signer} {
		artifacts, err := s.SignManifest(root, repository)
		if err != nil {
			t.Fatal(err)
		}
		ev.add(root, artifacts...)
	}
	signatures, err := attest.VerifyManifestSignatures(t.Context(), ev, root, us.policy())
	if err != nil {
		t.Fatal(err)
	}
	if len(signatures) != 2 {
		t.Errorf("%d signatures, want the 2 of the trusted key", len(signatures))
	}
}

func TestVerifyReleaseTrustsNobodyByDefault(t *testing.T) {
	root, ev := release("index"), newEvidence()
	artifacts, err := newIdentity(t, 1).signer.SignManifest(root, repository)
	if err != nil {
		t.Fatal(err)
	}
	ev.add(root, artifacts...)
	var denied *attest.DeniedError
	if _, err := attest.VerifyRelease(t.Context(), ev, root, attest.Policy{}); !errors.As(err, &denied) || denied.Reason != attest.UnknownKey {
		t.Fatalf("got %v, want a denial", err)
	}
}

// A source that cannot be read has said nothing about signatures.
func TestVerifyReleaseReportsReadErrors(t *testing.T) {
	root, us := release("index"), newIdentity(t, 1)
	artifacts, err := us.signer.SignManifest(root, repository)
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("input/output error")
	var denied *attest.DeniedError

	ev := newEvidence()
	ev.add(root, artifacts[0])
	ev.openErr[artifacts[0].Manifest.Digest] = broken
	if _, err := attest.VerifyRelease(t.Context(), ev, root, us.policy()); !errors.Is(err, broken) || errors.As(err, &denied) {
		t.Errorf("unreadable manifest: got %v", err)
	}
	ev.add(root, artifacts[1])
	if _, err := attest.VerifyRelease(t.Context(), ev, root, us.policy()); err != nil {
		t.Errorf("one unreadable signature beside a good one: %v", err)
	}
	ev.listErr = broken
	if _, err := attest.VerifyRelease(t.Context(), ev, root, us.policy()); !errors.Is(err, broken) || errors.As(err, &denied) {
		t.Errorf("unreadable list: got %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	ev.listErr = nil
	if _, err := attest.VerifyRelease(cancelled, ev, root, us.policy()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

func TestVerifyReleaseDamagedAndMissing(t *testing.T) {
	root, us := release("index"), newIdentity(t, 1)
	artifacts, err := us.signer.SignManifest(root, repository)
	if err != nil {
		t.Fatal(err)
	}
	layer := artifacts[0].Blobs[1]

	ev := newEvidence()
	ev.add(root, artifacts[0])
	ev.blobs[layer.Digest] = append([]byte("["), layer.Data[1:]...)
	_, err = attest.VerifyRelease(t.Context(), ev, root, us.policy())
	var denied *attest.DeniedError
	var damaged *bundle.DamagedError
	if !errors.As(err, &denied) || denied.Reason != attest.Malformed || !errors.As(err, &damaged) {
		t.Errorf("damaged: got %v", err)
	}

	delete(ev.blobs, layer.Digest)
	_, err = attest.VerifyRelease(t.Context(), ev, root, us.policy())
	var missing *bundle.MissingError
	if !errors.As(err, &denied) || denied.Reason != attest.Malformed || !errors.As(err, &missing) {
		t.Errorf("missing: got %v", err)
	}
}

// Who piles up manifests beside a release makes it unverifiable, not the relay slow.
func TestVerifyReleaseReadsABoundedNumber(t *testing.T) {
	root, us := release("index"), newIdentity(t, 1)
	ev := newEvidence()
	for i := range attest.MaxReferrers + 5 {
		ev.bundle(t, root, fmt.Appendf(nil, "junk %d", i))
	}
	_, err := attest.VerifyRelease(t.Context(), ev, root, us.policy())
	var denied *attest.DeniedError
	if !errors.As(err, &denied) || denied.Unread != 5 || len(denied.Seen) != attest.MaxReferrers {
		t.Fatalf("got %v", err)
	}
	if ev.opened != 2*attest.MaxReferrers {
		t.Errorf("%d blobs opened, want %d", ev.opened, 2*attest.MaxReferrers)
	}
	if text := strings.Join(denied.Details(), "\n"); len(text) > 4096 || !strings.Contains(text, "5 more were not read") {
		t.Errorf("text of %d bytes: %s", len(text), text)
	}
}

// Referrers of other kinds are not signatures, and a tag of another manifest is none of ours.
func TestVerifyReleaseIgnoresOtherReferrers(t *testing.T) {
	root, us := release("index"), newIdentity(t, 1)
	ev := newEvidence()
	ev.manifest(t, root, "", ocispec.Manifest{ArtifactType: "application/spdx+json", Subject: &root})
	payload := []byte(simplePayload(root.Digest))
	ev.legacy(t, root, payload, us.raw(payload))
	ev.refs[root.Digest][1].Tag = attest.LegacyTag(release("another index").Digest)
	_, err := attest.VerifyRelease(t.Context(), ev, root, us.policy())
	var denied *attest.DeniedError
	if !errors.As(err, &denied) || denied.Reason != attest.NoSignature || len(denied.Seen) != 0 {
		t.Fatalf("got %v", err)
	}
}

// The artifact type in a list of referrers is hearsay: it hides no signature, and a crowd of others crowds none out.
func TestVerifyReleaseFindsMislabelledBundles(t *testing.T) {
	root, us := release("index"), newIdentity(t, 1)
	artifacts, err := us.signer.SignManifest(root, repository)
	if err != nil {
		t.Fatal(err)
	}
	ev := newEvidence()
	ev.add(root, artifacts[0])
	ev.refs[root.Digest][0].ArtifactType = ocispec.MediaTypeEmptyJSON
	if _, err := attest.VerifyRelease(t.Context(), ev, root, us.policy()); err != nil {
		t.Errorf("mislabelled: %v", err)
	}

	ev = newEvidence()
	for i := range attest.MaxReferrers {
		ev.manifest(t, root, "", ocispec.Manifest{ArtifactType: "application/spdx+json", Subject: &root, Annotations: map[string]string{"n": fmt.Sprint(i)}})
	}
	ev.add(root, artifacts[1])
	if _, err := attest.VerifyRelease(t.Context(), ev, root, us.policy()); err != nil {
		t.Errorf("behind a crowd: %v", err)
	}
}

func TestVerifyReleaseRefusesOtherDigests(t *testing.T) {
	root := release("index")
	root.Digest = "sha512:" + bundleDigest512
	us := newIdentity(t, 1)
	if _, err := attest.VerifyRelease(t.Context(), newEvidence(), root, us.policy()); err == nil {
		t.Fatal("accepted a sha512 root")
	}
}

func TestVerifyAttestation(t *testing.T) {
	image, other := release("image"), release("other image")
	us, stranger := newIdentity(t, 3), newIdentity(t, 4)
	keys := []crypto.PublicKey{us.signer.Public()}
	predicate := `{"spdxVersion":"SPDX-2.3","name":"<a&b>"}`
	a, err := us.signer.Attest(attest.Statement{PredicateType: "https://spdx.dev/Document", Predicate: []byte(predicate)}, image)
	if err != nil {
		t.Fatal(err)
	}
	ev := newEvidence()
	ev.add(image, a)
	st, err := attest.VerifyAttestation(t.Context(), ev, a.Manifest, keys)
	if err != nil {
		t.Fatal(err)
	}
	if st.PredicateType != "https://spdx.dev/Document" || string(st.Predicate) != predicate || !st.Covers(image.Digest) ||
		st.Covers(other.Digest) || st.KeyID != us.signer.KeyID() {
		t.Errorf("statement %+v", st)
	}
	for _, c := range []struct {
		name   string
		give   func() ocispec.Descriptor
		reason attest.Reason
	}{
		{"unknown key", func() ocispec.Descriptor {
			return ev.bundle(t, image, stranger.signed(t, signStatement(image.Digest)))
		}, attest.UnknownKey},
		{"about another subject", func() ocispec.Descriptor {
			return ev.bundle(t, image, us.signed(t, signStatement(other.Digest)))
		}, attest.WrongSubject},
		{"not a statement", func() ocispec.Descriptor { return ev.bundle(t, image, us.signed(t, `[]`)) }, attest.Malformed},
		{"empty", func() ocispec.Descriptor { return ev.bundle(t, image, us.signed(t, ``)) }, attest.Malformed},
		{"not a bundle", func() ocispec.Descriptor {
			return ev.manifest(t, image, "", ocispec.Manifest{ArtifactType: "text/spdx", Subject: &image})
		}, attest.Malformed},
	} {
		var denied *attest.DeniedError
		if _, err := attest.VerifyAttestation(t.Context(), ev, c.give(), keys); !errors.As(err, &denied) || denied.Reason != c.reason {
			t.Errorf("%s: got %v, want reason %q", c.name, err, c.reason)
		}
	}
}
