package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/release"
	"github.com/plimsoll/plimsoll/attest/sign"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

var noon = time.Date(2027, 1, 31, 12, 0, 0, 500, time.UTC)

func TestRevocationDocument(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	before := &release.Revocation{Number: 7, IssuedAt: "2027-01-31T12:00:00Z", Epoch: 3, Bundles: []digest.Digest{a}}
	f := revokeFlags{bundles: []string{b.String(), a.String(), b.String()}, images: []string{"ghcr.io/acme/app:v1@" + b.String()}, publics: []string{strings.Repeat("3c", 32)}, epoch: 2}
	r, added, err := f.document(context.Background(), before, noon)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"bundle  " + b.String(), "image   " + b.String(), "key     " + strings.Repeat("3c", 32)}; !reflect.DeepEqual(added, want) {
		t.Errorf("added %q, want %q", added, want)
	}
	if r.Number != 8 || r.Epoch != 3 || len(r.Bundles) != 2 || !r.Contains(before) || r.IssuedAt != "2027-01-31T12:00:00Z" {
		t.Errorf("document %+v", r)
	}
	if before.Number != 7 || len(before.Bundles) != 1 || before.Images != nil {
		t.Errorf("the one before was changed: %+v", before)
	}
	var backwards *BackwardsError
	if _, _, err := f.document(context.Background(), before, noon.Add(-time.Second)); !errors.As(err, &backwards) {
		t.Errorf("the clock runs backwards: %v", err)
	}
	var nothing *NothingNewError
	if _, _, err := (&revokeFlags{epoch: 3, bundles: []string{a.String()}}).document(context.Background(), before, noon); !errors.As(err, &nothing) || nothing.Number != 7 {
		t.Errorf("nothing new: %v", err)
	}
	var format *release.FormatError
	last := *before
	last.Number = release.MaxNumber
	if _, _, err := f.document(context.Background(), &last, noon); !errors.As(err, &format) {
		t.Errorf("after the last number: %v", err)
	}
}

func TestFollows(t *testing.T) {
	a := digest.FromString("a")
	one := &release.Revocation{Number: 1, IssuedAt: "2027-01-31T12:00:00Z", Bundles: []digest.Digest{a}}
	two := &release.Revocation{Number: 2, IssuedAt: "2027-01-31T12:00:00Z", Bundles: []digest.Digest{a}}
	var older *OlderRevocationError
	var forgotten *release.ForgottenError
	var fork *release.ForkError
	if err := follows(one, two); err != nil {
		t.Error(err)
	}
	if err := follows(two, one); !errors.As(err, &older) {
		t.Errorf("an older one: %v", err)
	}
	if err := follows(one, &release.Revocation{Number: 2, Epoch: 9}); !errors.As(err, &forgotten) {
		t.Errorf("one that forgets: %v", err)
	}
	if err := follows(one, &release.Revocation{Number: 1, Epoch: 9}); !errors.As(err, &fork) {
		t.Errorf("another one of the number: %v", err)
	}
}

func TestWriteStatement(t *testing.T) {
	pair, err := sign.Generate(sign.Ed25519, nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := sign.LoadSigner(pair.Private, nil)
	if err != nil {
		t.Fatal(err)
	}
	made := func(number uint64) []byte {
		st, err := (&release.Revocation{Number: number, IssuedAt: "2027-01-31T12:00:00Z", Epoch: number}).Statement()
		if err != nil {
			t.Fatal(err)
		}
		data, err := signAlone("x", release.PredicateRevocation, st, sign.Signers{signer})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	one, two := made(1), made(2)
	no := errors.New("no")
	for _, c := range []struct {
		name       string
		there      []byte // nil: nothing is there
		give, want []byte // what must be there then
		extends    error
		kept       bool
	}{
		{"new", nil, one, one, no, false},
		{"the same", one, one, one, no, false},
		{"extended", one, two, two, nil, false},
		{"not extended", two, one, two, no, true},
		{"damaged", one[:9], one, one[:9], no, true},
		{"empty", []byte{}, one, []byte{}, no, true},
	} {
		path := filepath.Join(t.TempDir(), "x"+attest.ExtensionStatementFile)
		if c.there != nil {
			if err := os.WriteFile(path, c.there, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var kept *KeptError
		err := writeStatement(path, c.give, func([]byte) error { return c.extends })
		if got, _ := os.ReadFile(path); errors.As(err, &kept) != c.kept || err != nil && !c.kept || !bytes.Equal(got, c.want) {
			t.Errorf("%s: %v, %d bytes", c.name, err, len(got))
		}
		if files, _ := os.ReadDir(filepath.Dir(path)); len(files) != 1 {
			t.Errorf("%s: %d files", c.name, len(files))
		}
	}
	path := filepath.Join(t.TempDir(), "x"+attest.ExtensionStatementFile)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	var kept *KeptError
	if err := writeStatement(path, one, nil); !errors.As(err, &kept) {
		t.Errorf("a folder: %v", err)
	}
}

// A denial is a denial, whatever its causes are: other rules would take a malformed statement for wrong usage.
func TestExplainFile(t *testing.T) {
	rules := []cli.Rule{explainFile, explainRevoke, explainPermit, explainApprove, explainRelease}
	cause := []attest.Finding{{Reason: attest.Malformed, Err: &release.FormatError{Document: "x"}}}
	for _, c := range []struct {
		err  error
		want int
	}{
		{&attest.DeniedError{Wanted: release.PredicateRevocation, Seen: cause}, cli.ExitDenied},
		{&attest.DeniedError{Wanted: release.PredicateApproval, Seen: cause}, cli.ExitDenied},
		{&attest.DeniedError{Wanted: release.PredicatePermit, Seen: cause}, cli.ExitDenied},
		{&attest.DeniedError{Wanted: release.PredicateRelease, Seen: cause}, cli.ExitDenied},
		{&attest.StatementFileError{Err: &release.FormatError{}}, cli.ExitDamaged},
		{&KindError{}, cli.ExitDenied},
		{&KeptError{Err: &attest.StatementFileError{}}, cli.ExitFailed},
		{&KeptError{Err: &OlderRevocationError{}}, cli.ExitFailed},
		{&OlderRevocationError{}, cli.ExitOlder},
		{&release.PermitError{Err: &release.ExpiredError{}}, cli.ExitDenied},
		{&release.FormatError{}, cli.ExitUsage},
	} {
		var got int
		for _, rule := range rules {
			code, hint, ok := rule(c.err)
			if ok {
				if got = code; hint == "" {
					t.Errorf("%T: no hint", c.err)
				}
				break
			}
		}
		if got != c.want {
			t.Errorf("%T: exits with %d, want %d", c.err, got, c.want)
		}
	}
}
