package attest_test

import (
	"encoding/json"
	"errors"
	"testing"

	intoto "github.com/in-toto/attestation/go/v1"
	sigstore "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore/pkg/signature/payload"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/plimsoll/plimsoll/attest"
)

// What is accepted as a bundle must be one for sigstore-go too, with exactly the signed statement in it.
func FuzzSigstoreBundle(f *testing.F) {
	root, us := release("index"), newIdentity(f, 1)
	f.Add(us.signed(f, signStatement(root.Digest)))
	f.Fuzz(func(t *testing.T, data []byte) {
		ev := newEvidence()
		ev.bundle(t, root, data)
		if _, err := attest.VerifyRelease(t.Context(), ev, root, us.policy()); err != nil {
			return
		}
		var b sigstore.Bundle
		if err := b.UnmarshalJSON(data); err != nil {
			t.Fatal(err)
		}
		envelope, err := b.Envelope()
		if err != nil {
			t.Fatal(err)
		}
		statement, err := envelope.DecodeB64Payload()
		if err != nil {
			t.Fatal(err)
		}
		if want := signStatement(root.Digest); string(statement) != want {
			t.Errorf("accepted %s, only this was signed: %s", statement, want)
		}
	})
}

// What is accepted as a statement must mean the same to the in-toto library.
func FuzzStatement(f *testing.F) {
	root, us := release("index"), newIdentity(f, 1)
	f.Add([]byte(signStatement(root.Digest)))
	f.Fuzz(func(t *testing.T, data []byte) {
		ev := newEvidence()
		d := ev.bundle(t, root, us.signed(t, string(data)))
		_, releaseErr := attest.VerifyRelease(t.Context(), ev, root, us.policy())
		st, err := attest.VerifyAttestation(t.Context(), ev, d, us.policy().ReleaseKeys)
		if err != nil {
			if releaseErr == nil {
				t.Errorf("a release signature that is no statement: %v", err)
			}
			return
		}
		var want intoto.Statement
		if err := protojson.Unmarshal(withoutOpaque(t, data), &want); err != nil {
			t.Fatalf("accepted, but in-toto says: %v", err)
		}
		if want.Type != attest.StatementType || want.PredicateType != st.PredicateType || len(want.Subject) != len(st.Subjects) {
			t.Errorf("in-toto reads %v, we read %+v", &want, st)
		}
		for i, sub := range want.Subject {
			if sub.Digest["sha256"] != st.Subjects[i].Digest["sha256"] || len(sub.Digest) != len(st.Subjects[i].Digest) {
				t.Errorf("subject %d: in-toto reads %v, we read %v", i, sub.Digest, st.Subjects[i].Digest)
			}
		}
		if releaseErr == nil && (want.PredicateType != attest.PredicateSign || len(want.Subject) != 1 ||
			want.Subject[0].Digest["sha256"] != root.Digest.Encoded()) {
			t.Errorf("accepted as a release signature: %v", &want)
		}
	})
}

// withoutOpaque drops the parts that are handed on or ignored as they are: protobuf knows fewer numbers than JSON.
func withoutOpaque(t *testing.T, data []byte) []byte {
	t.Helper()
	var top map[string]json.RawMessage
	var subjects []map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(data, &top), json.Unmarshal(top["subject"], &subjects)); err != nil {
		t.Fatal(err)
	}
	for _, sub := range subjects {
		delete(sub, "annotations")
	}
	delete(top, "predicate")
	top["subject"] = encode(t, subjects)
	return encode(t, top)
}

// What is accepted as a simple-signing payload must mean the same to sigstore's parser.
func FuzzSimpleSigning(f *testing.F) {
	root, us := release("index"), newIdentity(f, 1)
	f.Add([]byte(simplePayload(root.Digest)))
	f.Fuzz(func(t *testing.T, data []byte) {
		ev := newEvidence()
		ev.legacy(t, root, data, us.raw(data))
		if _, err := attest.VerifyRelease(t.Context(), ev, root, us.policy()); err != nil {
			return
		}
		var simple payload.SimpleContainerImage
		if err := json.Unmarshal(data, &simple); err != nil {
			return // the claimed identity and the optional part are not judged here, but have a type there
		}
		if simple.Critical.Type != payload.CosignSignatureType || simple.Critical.Image.DockerManifestDigest != root.Digest.String() {
			t.Errorf("accepted %s", data)
		}
	})
}

// The manifests come from the same untrusted place as what they carry.
func FuzzManifest(f *testing.F) {
	root, us := release("index"), newIdentity(f, 1)
	artifacts, err := us.signer.SignManifest(root, repository)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(artifacts[0].Blobs[2].Data, true)
	f.Add(artifacts[1].Blobs[2].Data, false)
	f.Fuzz(func(t *testing.T, data []byte, referrer bool) {
		ev := newEvidence()
		ev.add(root, artifacts...)
		ev.refs[root.Digest] = nil
		d := ev.blob("application/vnd.oci.image.manifest.v1+json", data)
		tag := attest.LegacyTag(root.Digest)
		if referrer {
			tag = ""
		}
		ev.refer(root, d, tag)
		v, err := attest.VerifyRelease(t.Context(), ev, root, us.policy())
		if (v == nil) == (err == nil) {
			t.Errorf("got %v and %v", v, err)
		}
		if _, err := attest.VerifyAttestation(t.Context(), ev, d, us.policy().ReleaseKeys); err != nil && v != nil && referrer {
			t.Errorf("a release signature that is no attestation: %v", err)
		}
	})
}
