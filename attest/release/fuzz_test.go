package release_test

import (
	"encoding/json"
	"testing"

	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/release"
)

// readBack checks what was accepted of a payload: it is what attest/sign writes for the value that was read, and in-toto
// reads the same in it.
func readBack(t *testing.T, payload []byte, predicateType string, again attest.Statement, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("accepted, but cannot be written: %v", err)
	}
	if written := payloadOf(t, again); written != string(payload) {
		t.Errorf("accepted %s, written %s", payload, written)
	}
	var read intoto.Statement
	if err := protojson.Unmarshal(payload, &read); err != nil {
		t.Fatalf("accepted, but in-toto says: %v", err)
	}
	if read.PredicateType != predicateType || len(read.Subject) != 1 || read.Subject[0].Digest["sha256"] != again.Subjects[0].Digest["sha256"] {
		t.Errorf("in-toto reads %v", &read)
	}
	var loose struct{ Predicate map[string]any }
	if err := json.Unmarshal(payload, &loose); err != nil || loose.Predicate["issuedAt"] == "" {
		t.Errorf("encoding/json reads %v, %v", loose, err)
	}
}

func FuzzRelease(f *testing.F) {
	us := newIdentity(f, 1)
	f.Add([]byte(payloadOf(f, must[attest.Statement](f)(stable().Statement(name, root.Digest)))))
	f.Add([]byte(payloadOf(f, must[attest.Statement](f)((&release.Release{Channel: "a", Version: "1.0.0", IssuedAt: "2026-03-01T08:00:00Z"}).Statement("b", root.Digest)))))
	f.Fuzz(func(t *testing.T, payload []byte) {
		v, err := release.VerifyReleaseFile(file(t, string(payload), us), root, keys(1, us))
		if err != nil {
			return
		}
		r := v.Releases()[0]
		if r.Subject() != root.Digest {
			t.Errorf("accepted for %s", r.Subject())
		}
		again, err := r.Release().Statement(r.Name(), r.Subject())
		readBack(t, payload, release.PredicateRelease, again, err)
	})
}

func FuzzApproval(f *testing.F) {
	us := newIdentity(f, 1)
	f.Add([]byte(payloadOf(f, must[attest.Statement](f)(approval().Statement(name, root.Digest)))))
	f.Fuzz(func(t *testing.T, payload []byte) {
		v, err := release.VerifyApprovalFile(file(t, string(payload), us), keys(1, us))
		if err != nil {
			return
		}
		again, err := v.Approval().Statement(v.Name(), v.Subject())
		readBack(t, payload, release.PredicateApproval, again, err)
	})
}

func FuzzRevocation(f *testing.F) {
	us := newIdentity(f, 1)
	f.Add([]byte(payloadOf(f, must[attest.Statement](f)(revocation().Statement()))))
	f.Add([]byte(payloadOf(f, must[attest.Statement](f)((&release.Revocation{Number: 1, IssuedAt: "2026-03-01T08:00:00Z"}).Statement()))))
	f.Fuzz(func(t *testing.T, payload []byte) {
		// The digest in the subject is beyond what mutation finds: a predicate alone must be read like one in its statement.
		if r, err := release.ParseRevocation(payload); err == nil {
			st, err := r.Statement()
			if err != nil {
				t.Fatal(err)
			}
			payload = []byte(payloadOf(t, st))
			if _, err := release.VerifyRevocationFile(file(t, string(payload), us), keys(1, us)); err != nil {
				t.Errorf("a predicate that its statement has not: %v", err)
			}
		}
		v, err := release.VerifyRevocationFile(file(t, string(payload), us), keys(1, us))
		if err != nil {
			return
		}
		again, err := v.Revocation().Statement()
		readBack(t, payload, release.PredicateRevocation, again, err)
		if next, err := release.Merge(revocation(), v.Revocation()); err == nil && !next.Contains(revocation()) {
			t.Error("merging gave rights back")
		}
	})
}

func FuzzPermit(f *testing.F) {
	us := newIdentity(f, 1)
	f.Add([]byte(payloadOf(f, must[attest.Statement](f)(permit().Statement(name, root.Digest)))))
	f.Fuzz(func(t *testing.T, payload []byte) {
		v, err := release.VerifyPermitFile(file(t, string(payload), us), keys(1, us))
		if err != nil {
			return
		}
		again, err := v.Permit().Statement(v.Name(), v.Subject())
		readBack(t, payload, release.PredicatePermit, again, err)
		if v.Covers(release.Use{Check: "revoked", Site: v.Permit().Site, Relay: v.Permit().Relay, Bundle: v.Subject()}) == nil {
			t.Error("a permit overrides a revocation")
		}
	})
}
