package access

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

func day() time.Time { return time.Date(2027, 3, 1, 12, 0, 0, 999, time.UTC) }

func newStore(t testing.TB, accounts ...Account) *Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range accounts {
		if err := s.Add(context.Background(), a); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func robot(name string) Account { return NewAccount(name, RoleRobot, "", day()) }

func TestStore(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	if all, err := s.Accounts(); err != nil || len(all) != 0 {
		t.Errorf("a new store: %v, %v", all, err)
	}
	b := NewAccount("agv-2", RoleRobot, "hall-3", day())
	generated := b.GeneratePassword()
	_, token, err := b.AddToken(day())
	if err != nil {
		t.Fatal(err)
	}
	anna := NewAccount("anna@plant7.example", RoleAdmin, "", day())
	if err := anna.SetPassword("correct horse"); err != nil {
		t.Fatal(err)
	}
	for _, a := range []Account{anna, b, robot("agv-1")} {
		if err := s.Add(ctx, a); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(s.path())
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{generated, token, strings.TrimPrefix(token, tokenPrefix), "correct horse"} {
		if strings.Contains(string(data), secret) {
			t.Errorf("%q is in the file", secret)
		}
	}
	if len(generated) != 32 || len(token) != 32+len(tokenPrefix) {
		t.Errorf("secrets %q and %q, want 160 bits in each", generated, token)
	}
	again, err := Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	all, err := again.Accounts()
	var names []string
	for _, a := range all {
		names = append(names, a.Name)
	}
	if err != nil || !slices.Equal(names, []string{"agv-1", "agv-2", "anna@plant7.example"}) {
		t.Errorf("read again: %v, %v", names, err)
	}

	var exists *ExistsError
	if err := s.Add(ctx, robot("AGV-1")); !errors.As(err, &exists) || exists.Name != "agv-1" {
		t.Errorf("a name that differs in case only: %v", err)
	}
	var absent *NoAccountError
	if err := s.Update(ctx, "agv-3", func(*Account) error { return nil }); !errors.As(err, &absent) || absent.Name != "agv-3" {
		t.Errorf("update of nobody: %v", err)
	}
	if err := s.Remove(ctx, "agv-3", func(Account) error { return nil }); !errors.As(err, &absent) {
		t.Errorf("removal of nobody: %v", err)
	}
	refused := errors.New("refused")
	if err := s.Remove(ctx, "agv-1", func(Account) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("a refused removal: %v", err)
	}
	if err := s.Update(ctx, "agv-1", func(a *Account) error { a.Disabled = true; return refused }); !errors.Is(err, refused) {
		t.Errorf("a refused change: %v", err)
	}
	if a, err := s.Account("agv-1"); err != nil || a.Disabled {
		t.Errorf("a refused change was made: %+v, %v", a, err)
	}
	for name, change := range map[string]func(*Account){
		"rename": func(a *Account) { a.Name = "agv-9" }, "role": func(a *Account) { a.Role = "god" }, "group": func(a *Account) { a.Group = "a b" },
		"password": func(a *Account) { a.Password = "secret" },
	} {
		if err := s.Update(ctx, "agv-1", func(a *Account) error { change(a); return nil }); err == nil {
			t.Errorf("%s: written", name)
		}
	}
	if err := s.Remove(ctx, "agv-1", func(Account) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Account("agv-1"); !errors.As(err, &absent) {
		t.Errorf("removed: %v", err)
	}
}

func TestStoreMode(t *testing.T) {
	s := newStore(t, robot("agv-1"))
	mode := func() os.FileMode {
		info, err := os.Stat(s.path())
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	if mode() != 0o600 {
		t.Errorf("mode %o", mode())
	}
	if err := os.Chmod(s.path(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(s.dir); err != nil || mode() != 0o600 {
		t.Errorf("mended: mode %o, %v", mode(), err)
	}
}

// Nothing is lost when many processes change the store at once: flock excludes open files, whichever process has them.
func TestStoreChangesTogether(t *testing.T) {
	dir := t.TempDir()
	var all sync.WaitGroup
	for i := range 8 {
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			for j := range 5 {
				if err := s.Add(t.Context(), robot(fmt.Sprintf("agv-%d-%d", i, j))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if accounts, err := s.Accounts(); err != nil || len(accounts) != 40 {
		t.Errorf("%d accounts, %v", len(accounts), err)
	}
}

func TestStoreLockIsWaitedFor(t *testing.T) {
	s := newStore(t)
	unlock, err := s.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Add(ctx, robot("agv-1")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if err := s.Add(t.Context(), robot("agv-1")); err != nil {
		t.Error(err)
	}
}

// A crash leaves the file as it was or as it became, and perhaps a temporary file that nobody reads.
func TestStoreAfterACrash(t *testing.T) {
	s := newStore(t, robot("agv-1"))
	if err := os.WriteFile(filepath.Join(s.dir, "."+File+".tmp-1"), []byte(`{"apiVer`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Add(t.Context(), robot("agv-2")); err != nil {
		t.Fatal(err)
	}
	if accounts, err := s.Accounts(); err != nil || len(accounts) != 2 {
		t.Errorf("%v, %v", accounts, err)
	}
}

func sample(t testing.TB) []byte {
	t.Helper()
	a, b := robot("agv-1"), NewAccount("anna", RoleOperator, "shift-2", day())
	a.Password, b.Password = sumPrefix+sum("x"), nobodysHash
	a.Tokens = []Token{{"abcdefgh", sum("t"), stamp(day())}}
	a.Certificates = []Certificate{{sum("c"), stamp(day()), stamp(day())}}
	data, err := encode([]Account{a, b})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParseRefuses(t *testing.T) {
	good := string(sample(t))
	if _, err := parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string][2]string{
		"another version":     {"access.v1", "access.v2"},
		"an unknown field":    {`"role":"robot"`, `"role":"robot","x":1`},
		"a duplicate key":     {`"role":"robot"`, `"role":"robot","role":"admin"`},
		"white space":         {`{"apiVersion"`, `{ "apiVersion"`},
		"trailing bytes":      {`}]}`, `}]} `},
		"an unknown role":     {`"robot"`, `"god"`},
		"a bad name":          {`"agv-1"`, `"agv 1"`},
		"a reserved name":     {`"agv-1"`, `"Anonymous"`},
		"a bad group":         {`"shift-2"`, `"-"`},
		"order":               {`"agv-1"`, `"zulu"`},
		"case twins":          {`"agv-1"`, `"ANNA"`},
		"a clear password":    {nobodysHash, "secret"},
		"a cheap hash":        {"$2a$10$", "$2a$04$"},
		"an endless hash":     {"$2a$10$", "$2a$31$"},
		"a short sum":         {sumPrefix + sum("x"), sumPrefix + "00"},
		"a sum in capitals":   {sum("t"), strings.ToUpper(sum("t"))},
		"a token's id":        {"abcdefgh", "abc"},
		"one sum, two proofs": {sum("c"), sum("t")},
		"local time":          {`2027-03-01T12:00:00Z`, `2027-03-01T12:00:00+01:00`},
		"no list":             {good[strings.Index(good, "["):], "null}"},
		"parts of seconds":    {`2027-03-01T12:00:00Z`, `2027-03-01T12:00:00.5Z`},
	} {
		bad := strings.Replace(good, c[0], c[1], 1)
		if bad == good {
			t.Fatalf("%s: %q is not in the sample", name, c[0])
		}
		if _, err := parse([]byte(bad)); err == nil {
			t.Errorf("%s: read", name)
		}
	}
	if _, err := parse([]byte(strings.Repeat(" ", maxFile+1))); err == nil {
		t.Error("any size is read")
	}
	many := make([]Account, maxAccounts+1)
	for i := range many {
		many[i] = robot(fmt.Sprintf("agv-%05d", i))
	}
	if _, err := encode(many); err == nil {
		t.Error("any number of accounts is written")
	}
}

func TestCheckName(t *testing.T) {
	for name, want := range map[string]bool{
		"agv-17": true, "AGV_17.hall@plant7": true, "7": true, strings.Repeat("a", 64): true, strings.Repeat("a", 65): false, "": false, "-a": false,
		"a-": false, "a b": false, "a/b": false, "a:b": false, "ä": false, "anonymous": false, "..": false, "a\n": false,
	} {
		if err := CheckName(name); (err == nil) != want {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestCredentialsOfAnAccount(t *testing.T) {
	a := robot("agv-1")
	for bad, want := range map[string]string{"short": "8 characters", strings.Repeat("a", 73): "73 bytes", "a line\nend": "control", "not UTF-8 \xff": "UTF-8", "": "8 characters"} {
		if err := a.SetPassword(bad); err == nil || !strings.Contains(err.Error(), want) || bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for range maxTokens {
		if _, _, err := a.AddToken(day()); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := a.AddToken(day()); err == nil {
		t.Error("any number of tokens")
	}
	id := a.Tokens[3].ID
	if err := a.RemoveToken(id); err != nil || len(a.Tokens) != maxTokens-1 {
		t.Errorf("%d tokens, %v", len(a.Tokens), err)
	}
	if err := a.RemoveToken(id); err == nil {
		t.Error("a token was withdrawn twice")
	}
	a.Certificates = []Certificate{{SHA256: "aaaaaaaa11"}, {SHA256: "aaaaaaaa22"}, {SHA256: "bbbbbbbb33"}}
	for _, prefix := range []string{"aaaaaaaa", "bbbb", "", "cccccccc"} {
		if err := a.RevokeCertificate(prefix); err == nil {
			t.Errorf("%q: revoked", prefix)
		}
	}
	for _, prefix := range []string{"bbbbbbbb", "aaaaaaaa2"} {
		if err := a.RevokeCertificate(prefix); err != nil {
			t.Errorf("%q: %v", prefix, err)
		}
	}
	if len(a.Certificates) != 1 {
		t.Errorf("left: %v", a.Certificates)
	}
}

// What is read is written to the same bytes.
func FuzzParse(f *testing.F) {
	f.Add(sample(f))
	f.Add([]byte(`{"apiVersion":"plimsoll.access.v1","accounts":[]}`))
	f.Add([]byte(`{"apiVersion":"plimsoll.access.v1","accounts":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		accounts, err := parse(data)
		if err != nil {
			return
		}
		again, err := strictjson.Marshal(document{apiVersion, accounts})
		if err != nil || string(again) != string(data) {
			t.Errorf("%q is written as %q (%v)", data, again, err)
		}
		if _, err := newState(accounts, nil); err != nil {
			t.Errorf("%q: %v", data, err)
		}
	})
}
