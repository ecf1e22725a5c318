package sign

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// Blob is a descriptor with its bytes.
type Blob struct {
	ocispec.Descriptor
	Data []byte
}

// Artifact is a manifest with everything that it names.
type Artifact struct {
	Manifest ocispec.Descriptor // media type, digest, size and, for a referrer, its artifact type
	Tag      string             // the legacy tag sha256-<hex>.sig; empty for a referrer
	Blobs    []Blob             // in the order in which they can be pushed: the manifest is the last
}

// SignManifest is Signers.SignManifest with one signer.
func (s *Signer) SignManifest(subject ocispec.Descriptor, repository string) ([]Artifact, error) {
	return Signers{s}.SignManifest(subject, repository)
}

// signManifest makes a Sigstore bundle by each of some signers, and a legacy manifest with the layers that are there and
// one by each of others.
func signManifest(subject ocispec.Descriptor, repository string, bundles, layers Signers, there []ocispec.Descriptor) ([]Artifact, error) {
	if err := checkSubject(subject); err != nil {
		return nil, fmt.Errorf("sign %s: %w", subject.Digest, err)
	}
	if err := bundle.CheckRepository(repository); err != nil {
		return nil, fmt.Errorf("sign %s: %w", subject.Digest, err)
	}
	var artifacts []Artifact
	for _, s := range bundles {
		referrer, err := s.Attest(attest.Statement{PredicateType: attest.PredicateSign, Predicate: json.RawMessage("{}")}, subject)
		if err != nil {
			return nil, err
		}
		artifacts = append(artifacts, referrer)
	}
	if len(layers) > 0 {
		legacy, err := simpleSigning(subject, repository, layers, there)
		if err != nil {
			return nil, fmt.Errorf("sign %s: %w", subject.Digest, err)
		}
		artifacts = append(artifacts, legacy)
	}
	return artifacts, nil
}

// Attest signs an in-toto Statement v1 about subject, as `cosign attest --new-bundle-format` does. The statement's
// PredicateType and Predicate (a JSON object) are used, KeyID is not; without Subjects the statement speaks of subject
// alone, with Subjects one of them must be it.
func (s *Signer) Attest(statement attest.Statement, subject ocispec.Descriptor) (Artifact, error) {
	if err := checkSubject(subject); err != nil {
		return Artifact{}, fmt.Errorf("attest %s: %w", subject.Digest, err)
	}
	message, err := encodeStatement(statement, subject.Digest)
	if err != nil {
		return Artifact{}, fmt.Errorf("attest %s: %w", subject.Digest, err)
	}
	sigstoreBundle, err := s.envelope(message)
	if err != nil {
		return Artifact{}, fmt.Errorf("attest %s: %w", subject.Digest, err)
	}
	// What verifiers will not read must not be written.
	if limit := limitOf(statement.PredicateType); len(sigstoreBundle) > limit {
		return Artifact{}, fmt.Errorf("attest %s: Sigstore bundle of %d bytes, the limit is %d", subject.Digest, len(sigstoreBundle), limit)
	}
	config := newBlob(ocispec.MediaTypeEmptyJSON, []byte("{}"))
	layer := newBlob(attest.MediaTypeBundle, sigstoreBundle)
	configDescriptor := config.Descriptor
	configDescriptor.ArtifactType = attest.MediaTypeBundle // cosign writes it here too
	manifest := ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: attest.MediaTypeBundle,
		Config:       configDescriptor,
		Layers:       []ocispec.Descriptor{layer.Descriptor},
		Subject:      &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
		Annotations: map[string]string{
			attest.AnnotationContent:       attest.ContentDSSE,
			attest.AnnotationPredicateType: statement.PredicateType,
		},
	}
	a, err := newArtifact(manifest, config, layer)
	if err != nil {
		return Artifact{}, fmt.Errorf("attest %s: %w", subject.Digest, err)
	}
	return a, nil
}

func limitOf(predicateType string) int {
	if predicateType == attest.PredicateSign {
		return attest.MaxSignature
	}
	return attest.MaxAttestation
}

// checkSubject refuses what attest would refuse to verify.
func checkSubject(subject ocispec.Descriptor) error {
	if err := bundle.CheckDescriptor(subject); err != nil {
		return err
	}
	if subject.Digest.Algorithm() != digest.SHA256 {
		return fmt.Errorf("digest %s: only sha256 can be signed", subject.Digest)
	}
	return nil
}

func encodeStatement(st attest.Statement, subject digest.Digest) ([]byte, error) {
	if len(st.Subjects) == 0 {
		st.Subjects = []attest.Subject{{Digest: map[string]string{subject.Algorithm().String(): subject.Encoded()}}}
	}
	if !st.Covers(subject) {
		return nil, errors.New("the statement does not speak of it")
	}
	if len(st.Subjects) > attest.MaxSubjects {
		return nil, fmt.Errorf("%d subjects, the limit is %d", len(st.Subjects), attest.MaxSubjects)
	}
	if st.PredicateType == "" {
		return nil, errors.New("no predicate type")
	}
	if err := strictjson.Check(st.Predicate); err != nil {
		return nil, fmt.Errorf("predicate: %w", err)
	}
	if !bytes.HasPrefix(bytes.TrimSpace(st.Predicate), []byte("{")) {
		return nil, errors.New("predicate: not a JSON object")
	}
	return strictjson.Marshal(struct {
		Type          string           `json:"_type"`
		Subject       []attest.Subject `json:"subject"`
		PredicateType string           `json:"predicateType"`
		Predicate     json.RawMessage  `json:"predicate"`
	}{attest.StatementType, st.Subjects, st.PredicateType, st.Predicate})
}

// envelope signs an in-toto statement with DSSE and wraps it into a Sigstore bundle v0.3. The JSON is written by hand
// because protojson varies its white space on purpose; the order of the fields is that of sigstore's protobuf.
func (s *Signer) envelope(statement []byte) ([]byte, error) {
	sig, err := s.sign(dsse.PAE(attest.PayloadTypeInToto, statement))
	if err != nil {
		return nil, err
	}
	type publicKey struct {
		Hint string `json:"hint"`
	}
	type material struct {
		PublicKey publicKey `json:"publicKey"`
	}
	type signature struct {
		Sig []byte `json:"sig"`
	}
	type envelope struct {
		Payload     []byte      `json:"payload"`
		PayloadType string      `json:"payloadType"`
		Signatures  []signature `json:"signatures"`
	}
	return strictjson.Marshal(struct {
		MediaType    string   `json:"mediaType"`
		Material     material `json:"verificationMaterial"`
		DSSEEnvelope envelope `json:"dsseEnvelope"`
	}{
		MediaType: attest.MediaTypeBundle,
		Material:  material{PublicKey: publicKey{Hint: s.hint}},
		DSSEEnvelope: envelope{
			Payload:     statement,
			PayloadType: attest.PayloadTypeInToto,
			Signatures:  []signature{{Sig: sig}},
		},
	})
}

func newBlob(mediaType string, data []byte) Blob {
	return Blob{
		Descriptor: ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))},
		Data:       data,
	}
}

// newArtifact encodes a manifest and puts it behind its blobs.
func newArtifact(m ocispec.Manifest, blobs ...Blob) (Artifact, error) {
	data, err := strictjson.Marshal(m)
	if err != nil {
		return Artifact{}, err
	}
	manifest := newBlob(m.MediaType, data)
	manifest.ArtifactType = m.ArtifactType
	return Artifact{Manifest: manifest.Descriptor, Blobs: append(slices.Clone(blobs), manifest)}, nil
}
