package keyless_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/keyless"
	"github.com/plimsoll/plimsoll/bundle/media"
)

const (
	issuer     = "https://token.actions.githubusercontent.com"
	workflow   = "https://github.com/acme/robot-app/.github/workflows/release.yaml@refs/tags/v1.5.4"
	alice      = "alice@acme.example"
	repository = "ghcr.io/acme/robot-app"
)

// world is one Sigstore: an authority for certificates of our own, with the log and the timestamps of sigstore-go's
// VirtualSigstore. Its log index is always 0, its tree has one entry.
type world struct {
	virtual      *ca.VirtualSigstore
	anchor       *x509.Certificate
	intermediate *x509.Certificate
	key          *ecdsa.PrivateKey // of intermediate
	now          time.Time
}

func newWorld(t testing.TB) *world {
	t.Helper()
	virtual, err := ca.NewVirtualSigstore()
	must(t, err)
	anchor, anchorKey, err := ca.GenerateRootCa()
	must(t, err)
	w := &world{virtual: virtual, anchor: anchor, now: time.Now().UTC().Truncate(time.Second)}
	w.key = newKey(t)
	w.intermediate = w.certificate(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "intermediate"},
		NotBefore: w.now.Add(-4 * time.Hour), NotAfter: w.now.Add(4 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, BasicConstraintsValid: true, IsCA: true,
	}, anchor, w.key, anchorKey)
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func (w *world) certificate(t testing.TB, template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	must(t, err)
	c, err := x509.ParseCertificate(der)
	must(t, err)
	return c
}

// trustedRoot is the file. With a certificate log, certificates must be in it; ours never are.
func (w *world) trustedRoot(t testing.TB, certificateLog bool) []byte {
	t.Helper()
	logs := map[string]*root.TransparencyLog{}
	for id, log := range w.virtual.RekorLogs() {
		raw, err := hex.DecodeString(id)
		must(t, err)
		log.ID, log.ValidityPeriodStart, log.ValidityPeriodEnd = raw, w.now.Add(-5*time.Hour), w.now.Add(5*time.Hour)
		logs[id] = log
	}
	certificateLogs := map[string]*root.TransparencyLog{}
	if certificateLog {
		for id, log := range w.virtual.CTLogs() {
			raw, err := hex.DecodeString(id)
			must(t, err)
			log.ID = raw
			certificateLogs[id] = log
		}
	}
	authority := &root.FulcioCertificateAuthority{Root: w.anchor, Intermediates: []*x509.Certificate{w.intermediate},
		ValidityPeriodStart: w.now.Add(-5 * time.Hour), ValidityPeriodEnd: w.now.Add(5 * time.Hour)}
	tr, err := root.NewTrustedRoot(root.TrustedRootMediaType01, []root.CertificateAuthority{authority}, certificateLogs,
		w.virtual.TimestampingAuthorities(), logs)
	must(t, err)
	data, err := tr.MarshalJSON()
	must(t, err)
	var compact bytes.Buffer // protojson varies its white space on purpose
	must(t, json.Compact(&compact, data))
	return compact.Bytes()
}

func (w *world) root(t testing.TB) *keyless.TrustedRoot {
	t.Helper()
	r, err := keyless.ParseTrustedRoot(w.trustedRoot(t, false))
	must(t, err)
	return r
}

// signing is one signature in the making; its zero value is a good one by the workflow.
type signing struct {
	uris, emails, dns []string // subject alternative names; all empty and not nameless: the workflow
	nameless          bool
	issuer            string        // "": issuer
	valid             time.Duration // when the certificate begins, from a minute ago
	logged            time.Duration // when it was logged, from now
	noLog, noStamp    bool
	noProof           bool
	noPromise         bool
	subject           string // JSON of the subject list; "": the image
	predicate         string
	payload           string // the whole statement, or the whole simple-signing payload
	foreignLog        *world // whose log it is in
	foreignStamp      *world
	change            func(*protobundle.Bundle)
	annotate          func(map[string]string)
}

func image(name string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(name), Size: int64(len(name))}
}

func statement(subjects, predicate string) string {
	return fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[%s],"predicateType":"%s","predicate":{}}`, subjects, predicate)
}

func subjectOf(d ocispec.Descriptor) string {
	return fmt.Sprintf(`{"digest":{"sha256":"%s"}}`, d.Digest.Encoded())
}

func (w *world) leaf(t testing.TB, s signing) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(3), NotBefore: w.now.Add(-time.Minute).Add(s.valid), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, EmailAddresses: s.emails, DNSNames: s.dns,
	}
	template.NotAfter = template.NotBefore.Add(10 * time.Minute)
	if len(s.uris)+len(s.emails)+len(s.dns) == 0 && !s.nameless {
		s.uris = []string{workflow}
	}
	for _, text := range s.uris {
		u, err := url.Parse(text)
		must(t, err)
		template.URIs = append(template.URIs, u)
	}
	if s.issuer == "" {
		s.issuer = issuer
	}
	der, err := asn1.MarshalWithParams(s.issuer, "utf8")
	must(t, err)
	template.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: der}}
	key := newKey(t)
	return w.certificate(t, template, w.intermediate, key, w.key), key
}

func signBytes(t testing.TB, key *ecdsa.PrivateKey, message []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(message)
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	must(t, err)
	return sig
}

// promise signs an entry as the log does when it takes it.
func (w *world) promise(t testing.TB, body []byte, index int64, at time.Time) (logID, set []byte) {
	t.Helper()
	id, err := w.virtual.RekorLogID()
	must(t, err)
	set, err = w.virtual.RekorSignPayload(tlog.RekorPayload{Body: base64.StdEncoding.EncodeToString(body), IntegratedTime: at.Unix(), LogIndex: index, LogID: id})
	must(t, err)
	logID, err = hex.DecodeString(id)
	must(t, err)
	return logID, set
}

// bundle makes a Sigstore bundle v0.3 about a manifest.
func (w *world) bundle(t testing.TB, about ocispec.Descriptor, s signing) []byte {
	t.Helper()
	data, err := protojson.Marshal(w.proto(t, about, s))
	must(t, err)
	return data
}

func (w *world) proto(t testing.TB, about ocispec.Descriptor, s signing) *protobundle.Bundle {
	t.Helper()
	payload := s.payload
	if payload == "" {
		if s.subject == "" {
			s.subject = subjectOf(about)
		}
		if s.predicate == "" {
			s.predicate = attest.PredicateSign
		}
		payload = statement(s.subject, s.predicate)
	}
	leaf, key := w.leaf(t, s)
	sig := signBytes(t, key, dsse.PAE(attest.PayloadTypeInToto, []byte(payload)))
	material := &protobundle.VerificationMaterial{
		Content: &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: leaf.Raw}},
	}
	if !s.noLog {
		log := w
		if s.foreignLog != nil {
			log = s.foreignLog
		}
		envelope := &dsse.Envelope{Payload: base64.StdEncoding.EncodeToString([]byte(payload)), PayloadType: attest.PayloadTypeInToto,
			Signatures: []dsse.Signature{{Sig: base64.StdEncoding.EncodeToString(sig)}}}
		at := w.now.Add(s.logged)
		entry, err := log.virtual.GenerateTlogEntry(leaf, envelope, sig, at.Unix(), true)
		must(t, err)
		tle := entry.TransparencyLogEntry()
		tle.KindVersion = &protorekor.KindVersion{Kind: "dsse", Version: "0.0.1"}
		_, set := log.promise(t, tle.CanonicalizedBody, tle.LogIndex, at)
		tle.InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: set}
		if s.noPromise {
			tle.InclusionPromise = nil
		}
		if s.noProof {
			tle.InclusionProof = nil
		}
		material.TlogEntries = []*protorekor.TransparencyLogEntry{tle}
	}
	if !s.noStamp {
		material.TimestampVerificationData = &protobundle.TimestampVerificationData{
			Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: w.stamp(t, s, sig)}}}
	}
	b := &protobundle.Bundle{
		MediaType: attest.MediaTypeBundle, VerificationMaterial: material,
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{Payload: []byte(payload),
			PayloadType: attest.PayloadTypeInToto, Signatures: []*protodsse.Signature{{Sig: sig}}}},
	}
	if s.change != nil {
		s.change(b)
	}
	return b
}

func (w *world) stamp(t testing.TB, s signing, sig []byte) []byte {
	t.Helper()
	by := w
	if s.foreignStamp != nil {
		by = s.foreignStamp
	}
	stamp, err := by.virtual.TimestampResponse(sig)
	must(t, err)
	return stamp
}

// legacy makes a simple-signing payload and its annotations, as cosign 2 writes them.
func (w *world) legacy(t testing.TB, about ocispec.Descriptor, s signing) ([]byte, map[string]string) {
	t.Helper()
	payload := []byte(s.payload)
	if s.payload == "" {
		payload = fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"%s"},"image":{"docker-manifest-digest":"%s"},"type":"cosign container image signature"},"optional":null}`, repository, about.Digest)
	}
	leaf, key := w.leaf(t, s)
	sig := signBytes(t, key, payload)
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}))
	annotations := map[string]string{
		attest.AnnotationSignature:    base64.StdEncoding.EncodeToString(sig),
		keyless.AnnotationCertificate: text,
		"dev.sigstore.cosign/chain":   string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.intermediate.Raw})),
	}
	if !s.noLog {
		log := w
		if s.foreignLog != nil {
			log = s.foreignLog
		}
		sum := sha256.Sum256(payload)
		body := fmt.Appendf(nil, `{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{"hash":{"algorithm":"sha256","value":"%x"}},"signature":{"content":"%s","publicKey":{"content":"%s"}}}}`,
			sum, base64.StdEncoding.EncodeToString(sig), base64.StdEncoding.EncodeToString([]byte(text)))
		at := w.now.Add(s.logged)
		id, set := log.promise(t, body, 1234, at)
		data, err := json.Marshal(map[string]any{"SignedEntryTimestamp": set, "Payload": map[string]any{
			"body": body, "integratedTime": at.Unix(), "logIndex": 1234, "logID": hex.EncodeToString(id)}})
		must(t, err)
		annotations[keyless.AnnotationBundle] = string(data)
	}
	if !s.noStamp {
		data, err := json.Marshal(map[string][]byte{"SignedRFC3161Timestamp": w.stamp(t, s, sig)})
		must(t, err)
		annotations[keyless.AnnotationTimestamp] = string(data)
	}
	if s.annotate != nil {
		s.annotate(annotations)
	}
	return payload, annotations
}

// evidence is an honest Evidence in memory that can be made to fail.
type evidence struct {
	blobs   map[digest.Digest][]byte
	refs    map[digest.Digest][]media.Referrer
	openErr error
	listErr error
}

func newEvidence() *evidence {
	return &evidence{blobs: map[digest.Digest][]byte{}, refs: map[digest.Digest][]media.Referrer{}}
}

func (e *evidence) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if e.openErr != nil {
		return nil, e.openErr
	}
	data, ok := e.blobs[desc.Digest]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(data)), ctx.Err()
}

func (e *evidence) Referrers(_ context.Context, subject digest.Digest) ([]media.Referrer, error) {
	return e.refs[subject], e.listErr
}

func (e *evidence) blob(mediaType string, data []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	e.blobs[d.Digest] = data
	return d
}

// addBundle puts a Sigstore bundle beside a subject.
func (e *evidence) addBundle(t testing.TB, subject ocispec.Descriptor, data []byte) ocispec.Descriptor {
	t.Helper()
	return e.manifest(t, subject, "", ocispec.Manifest{ArtifactType: attest.MediaTypeBundle, Subject: &subject,
		Layers: []ocispec.Descriptor{e.blob(attest.MediaTypeBundle, data)}})
}

// addLegacy puts a layer into a manifest at the subject's legacy tag.
func (e *evidence) addLegacy(t testing.TB, subject ocispec.Descriptor, payload []byte, annotations map[string]string) ocispec.Descriptor {
	t.Helper()
	layer := e.blob(attest.MediaTypeSimpleSigning, payload)
	layer.Annotations = annotations
	return e.manifest(t, subject, attest.LegacyTag(subject.Digest), ocispec.Manifest{Layers: []ocispec.Descriptor{layer}})
}

func (e *evidence) manifest(t testing.TB, subject ocispec.Descriptor, tag string, m ocispec.Manifest) ocispec.Descriptor {
	t.Helper()
	m.Versioned = specs.Versioned{SchemaVersion: 2}
	m.MediaType = ocispec.MediaTypeImageManifest
	m.Config = e.blob(ocispec.MediaTypeEmptyJSON, []byte("{}"))
	data, err := json.Marshal(m)
	must(t, err)
	d := e.blob(m.MediaType, data)
	d.ArtifactType = m.ArtifactType
	e.refs[subject.Digest] = append(e.refs[subject.Digest], media.Referrer{Descriptor: d, Tag: tag})
	return d
}
