package sign_test

import (
	"bytes"
	"crypto"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	sigstore "github.com/sigstore/sigstore-go/pkg/bundle"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/sign"
)

func aboutSubject() attest.Statement {
	return attest.Statement{
		PredicateType: "https://example.com/note/v1",
		Subjects:      []attest.Subject{{Name: "thing", Digest: map[string]string{"sha256": subject.Digest.Encoded()}}},
		Predicate:     json.RawMessage(`{"note":"<a&b>"}`),
	}
}

// A statement that travels alone has the bytes of the one that travels beside a manifest, the same in every run, and
// sigstore-go reads it.
func TestSignStatement(t *testing.T) {
	for kind, s := range fixedSigners(t) {
		line, err := s.SignStatement(aboutSubject())
		if err != nil {
			t.Fatal(err)
		}
		again, err := s.SignStatement(aboutSubject())
		if err != nil || !bytes.Equal(again, line) {
			t.Errorf("%s: not deterministic: %v\n%s\n%s", kind, err, line, again)
		}
		beside, err := s.Attest(aboutSubject(), subject)
		if err != nil || string(line) != string(beside.Blobs[1].Data)+"\n" {
			t.Errorf("%s: alone %s, beside the manifest %s", kind, line, beside.Blobs[1].Data)
		}
		var b sigstore.Bundle
		if err := b.UnmarshalJSON(line); err != nil {
			t.Fatal(err)
		}
		entity, err := b.Envelope()
		if err != nil || len(entity.Signatures) != 1 {
			t.Errorf("%s: %v", kind, err)
		}
		if _, err := b.VerificationContent(); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		found, err := attest.VerifyStatementFile(line, attest.StatementQuery{PredicateType: "https://example.com/note/v1", Keys: []crypto.PublicKey{s.Public()}})
		if err != nil || found.Err() != nil || found.Found[0].KeyIDs()[0] != s.KeyID() {
			t.Errorf("%s: %v, %v", kind, err, found)
		}
	}
}

func TestCountersign(t *testing.T) {
	signers := fixedSigners(t)
	one, two := signers["ecdsa"], signers["ed25519"]
	mine, err := one.SignStatement(aboutSubject())
	if err != nil {
		t.Fatal(err)
	}
	both, err := two.Countersign(mine)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := two.SignStatement(aboutSubject())
	if err != nil {
		t.Fatal(err)
	}
	other, err := one.Countersign(theirs)
	if err != nil || !bytes.Equal(other, both) {
		t.Errorf("the order of signing is seen: %v\n%s\n%s", err, both, other)
	}
	if again, err := one.Countersign(both); err != nil || !bytes.Equal(again, both) {
		t.Errorf("a second signature by the same key: %v\n%s", err, again)
	}
	found, err := attest.VerifyStatementFile(both, attest.StatementQuery{PredicateType: "https://example.com/note/v1",
		Keys: []crypto.PublicKey{one.Public(), two.Public()}})
	if err != nil {
		t.Fatal(err)
	}
	if found.Require(2); found.Err() != nil {
		t.Error(found.Err())
	}
	var bad *attest.StatementFileError
	if _, err := one.Countersign([]byte("{}\n")); !errors.As(err, &bad) {
		t.Errorf("not a statement file: %v", err)
	}
}

func TestSignStatementRefuses(t *testing.T) {
	var s *sign.Signer
	for _, s = range fixedSigners(t) {
		break
	}
	for name, change := range map[string]func(*attest.Statement){
		"no subject":     func(st *attest.Statement) { st.Subjects = nil },
		"no SHA-256":     func(st *attest.Statement) { st.Subjects[0].Digest = map[string]string{"sha1": "00"} },
		"a short digest": func(st *attest.Statement) { st.Subjects[0].Digest["sha256"] = "00" },
		"no type":        func(st *attest.Statement) { st.PredicateType = "" },
		"no predicate":   func(st *attest.Statement) { st.Predicate = nil },
		"no object":      func(st *attest.Statement) { st.Predicate = json.RawMessage("[]") },
		"duplicate keys": func(st *attest.Statement) { st.Predicate = json.RawMessage(`{"a":1,"a":2}`) },
		"too large to be read": func(st *attest.Statement) {
			st.Predicate = json.RawMessage(`{"a":"` + strings.Repeat("x", attest.MaxSignature) + `"}`)
		},
		"too many subjects": func(st *attest.Statement) {
			for range attest.MaxSubjects {
				st.Subjects = append(st.Subjects, st.Subjects[0])
			}
		},
	} {
		st := aboutSubject()
		change(&st)
		if line, err := s.SignStatement(st); err == nil {
			t.Errorf("%s: %.80s", name, line)
		}
	}
}
