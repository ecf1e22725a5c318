package attest_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest"
)

// file joins Sigstore bundles into a statement file.
func file(bundles ...[]byte) []byte {
	var out []byte
	for _, b := range bundles {
		out = append(append(out, b...), '\n')
	}
	return out
}

func TestVerifyStatementFile(t *testing.T) {
	root := release("index")
	a, b, stranger := newIdentity(t, 1), newIdentity(t, 2), newIdentity(t, 9)
	one := note(root.Digest, "one")
	lines := [][]byte{a.signed(t, one), stranger.signed(t, one), b.signed(t, one), a.signed(t, one)}
	s, err := attest.VerifyStatementFile(file(lines...), query(t))
	if err != nil || s.Err() != nil {
		t.Fatal(err, s.Err())
	}
	s.Require(2)
	if len(s.Found) != 1 || string(s.Found[0].Payload()) != one || len(s.Found[0].KeyIDs()) != 2 || len(s.Found[0].Signatures()) != 3 {
		t.Fatalf("found %+v", s.Found)
	}
	for _, sig := range s.Found[0].Signatures() {
		if sig.Form != attest.FormFile || sig.Manifest != digest.FromBytes(lines[0]) && sig.Manifest != digest.FromBytes(lines[2]) {
			t.Errorf("signature %+v", sig)
		}
	}
	if len(s.Seen) != 1 || s.Seen[0].Line != 2 || s.Seen[0].Reason != attest.UnknownKey {
		t.Errorf("seen %+v", s.Seen)
	}
	s.Require(3)
	var denied *attest.DeniedError
	if err := s.Err(); !errors.As(err, &denied) || denied.Reason != attest.NotEnough ||
		!strings.HasPrefix(err.Error(), "verify statement file: 2 of 3 signatures over a statement of type "+typeNote) {
		t.Fatalf("got %v", err)
	}
	if text := strings.Join(denied.Details(), "\n"); !strings.Contains(text, "statement-file in line 2: not by a trusted key") {
		t.Errorf("details %s", text)
	}
	st, payload, err := attest.PeekStatementFile(file(lines...))
	if err != nil || string(payload) != one || st.PredicateType != typeNote || st.KeyID != "" {
		t.Errorf("peek: %+v, %s, %v", st, payload, err)
	}
}

func TestVerifyStatementFileDenies(t *testing.T) {
	root := release("index")
	us := newIdentity(t, 1)
	good := note(root.Digest, "good")
	for name, c := range map[string]struct {
		give   []byte
		reason attest.Reason
	}{
		"a stranger":          {file(newIdentity(t, 9).signed(t, good)), attest.UnknownKey},
		"another type":        {file(us.signed(t, signStatement(root.Digest))), attest.WrongPredicate},
		"a revoked key":       {file(newIdentity(t, 3).signed(t, good)), attest.RevokedKey},
		"not a statement":     {file(us.signed(t, `{"a":1}`)), attest.Malformed},
		"another signed type": {file(sigstoreBundle(t, "", "a/b", []byte(good), us.dsse("a/b", []byte(good)))), attest.Malformed},
	} {
		q := query(t)
		q.Revoked = []string{newIdentity(t, 3).signer.KeyID()}
		s, err := attest.VerifyStatementFile(c.give, q)
		var denied *attest.DeniedError
		if err != nil || !errors.As(s.Err(), &denied) || denied.Reason != c.reason || denied.Subject != "" {
			t.Errorf("%s: got %v, %v", name, err, s.Err())
		}
	}
}

func TestStatementFileForm(t *testing.T) {
	root := release("index")
	us, other := newIdentity(t, 1), newIdentity(t, 2)
	good := us.signed(t, note(root.Digest, "good"))
	for name, c := range map[string]struct {
		give []byte
		text string
	}{
		"empty":                     {nil, "empty"},
		"only a line end":           {[]byte("\n"), "line 1: not a JSON object"},
		"cut in the last line":      {file(good, good)[:2*len(good)], "cut off"},
		"without the last line end": {good, "cut off"},
		"a blank line":              {file(good, nil, good), "line 2: not a JSON object"},
		"white space":               {file(append([]byte(" "), good...)), "line 1: not a JSON object"},
		"a carriage return":         {file(append(bytes.Clone(good), '\r')), "line 1: not a JSON object"},
		"two values on a line":      {file(append(bytes.Clone(good), good...)), "line 1: sigstore bundle: data after"},
		"a value on two lines":      {file(bytes.Replace(good, []byte(`,`), []byte(",\n"), 1)), "line 1: not a JSON object"},
		"an array":                  {file([]byte(`[{}]`)), "line 1: not a JSON object"},
		"another payload":           {file(good, other.signed(t, note(root.Digest, "other"))), "line 2: another payload than line 1"},
		"another payload by white space": {file(good, other.signed(t, note(root.Digest, "good")+" ")),
			"line 2: another payload than line 1"},
		"two signatures on a line": {file(sigstoreBundle(t, "", attest.PayloadTypeInToto, []byte("x"), []byte("a"), []byte("b"))),
			"line 1: sigstore bundle: 2 signatures"},
		"no bundle":           {file(good, []byte(`{}`)), "line 2: sigstore bundle"},
		"too many lines":      {file(slices.Repeat([][]byte{good}, attest.MaxStatementLines+1)...), "more than 64 lines"},
		"a line too long":     {file(us.signed(t, note(root.Digest, strings.Repeat("x", attest.MaxSignature)))), "the limit is 4194304"},
		"too large":           {make([]byte, attest.MaxStatementFile+1), "the limit is 33554432"},
		"nested too deep":     {file([]byte(`{"mediaType":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`)), "deeper"},
		"a byte order mark":   {file(append([]byte("\ufeff"), good...)), "line 1: not a JSON object"},
		"a malleable payload": {file(bytes.Replace(good, []byte(`"payload":"e`), []byte(`"payload":"\u0065`), 1)), "illegal base64"},
	} {
		var bad *attest.StatementFileError
		if s, err := attest.VerifyStatementFile(c.give, query(t)); !errors.As(err, &bad) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: got %v, %v; want %q", name, s, err, c.text)
		}
	}
}

func TestMergeStatementFiles(t *testing.T) {
	root := release("index")
	one := note(root.Digest, "one")
	var lines [][]byte
	for seed := range byte(3) {
		lines = append(lines, newIdentity(t, seed+1).signed(t, one))
	}
	want, err := attest.MergeStatementFiles(file(lines[0], lines[1]), file(lines[2]), file(lines[1]))
	if err != nil {
		t.Fatal(err)
	}
	got, err := attest.MergeStatementFiles(file(lines[2], lines[1], lines[0]))
	if err != nil || !bytes.Equal(got, want) || bytes.Count(got, []byte("\n")) != 3 {
		t.Errorf("merging depends on the order: %v\n%s\n%s", err, got, want)
	}
	var bad *attest.StatementFileError
	if _, err := attest.MergeStatementFiles(file(lines[0]), file(newIdentity(t, 2).signed(t, note(root.Digest, "two")))); !errors.As(err, &bad) {
		t.Errorf("different statements: %v", err)
	}
	if _, err := attest.MergeStatementFiles(); !errors.As(err, &bad) {
		t.Errorf("nothing: %v", err)
	}
	var many [][]byte
	for i := range attest.MaxStatementLines + 1 {
		many = append(many, file(sigstoreBundle(t, fmt.Sprint(i), attest.PayloadTypeInToto, []byte(one), []byte("x"))))
	}
	if _, err := attest.MergeStatementFiles(many...); !errors.As(err, &bad) {
		t.Errorf("too many: %v", err)
	}
}

// What is accepted was signed byte for byte, and merging it alone changes nothing but the order of the lines.
func FuzzStatementFile(f *testing.F) {
	root, us := release("index"), newIdentity(f, 1)
	one := note(root.Digest, "one")
	q := query(f)
	f.Add(file(us.signed(f, one)))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := attest.VerifyStatementFile(data, q)
		if err != nil {
			var bad *attest.StatementFileError
			if !errors.As(err, &bad) {
				t.Errorf("error of type %T: %v", err, err)
			}
			return
		}
		merged, err := attest.MergeStatementFiles(data)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := attest.VerifyStatementFile(merged, q); err != nil || len(again.Found) != len(s.Found) {
			t.Errorf("after merging: %v", err)
		}
		if s.Err() != nil {
			return
		}
		if len(s.Found) != 1 || string(s.Found[0].Payload()) != one || len(s.Found[0].KeyIDs()) == 0 {
			t.Errorf("accepted %+v", s.Found)
		}
	})
}
