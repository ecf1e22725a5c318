package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

func open(t *testing.T, dir string) *Identity {
	t.Helper()
	id, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data", Folder)
	if _, err := ReadOwnPublicKey(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no key yet: %v", err)
	}
	first := open(t, dir)
	again := open(t, dir)
	if !first.PublicKey().Equal(again.PublicKey()) || first.Name() != again.Name() || first.KeyID() != again.KeyID() {
		t.Error("the key changed")
	}
	if !regexp.MustCompile(`^plimsoll-relay-[0-9a-f]{8}$`).MatchString(first.Name()) || !strings.HasSuffix(first.Name(), first.KeyID()[:8]) {
		t.Errorf("name %q of key %s", first.Name(), first.KeyID())
	}
	if info, err := os.Stat(filepath.Join(dir, keyFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left over: %v, %v", entries, err)
	}
	if own, err := ReadOwnPublicKey(dir); err != nil || !own.Equal(first.PublicKey()) {
		t.Errorf("own public key: %v", err)
	}
	public := filepath.Join(dir, "relay.pub")
	if err := os.WriteFile(public, first.PublicKeyPEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	if key, err := ReadPublicKey(public); err != nil || !key.Equal(first.PublicKey()) {
		t.Errorf("public key: %v", err)
	}
	sig, err := first.Signer().Sign(rand.Reader, []byte("message"), crypto.Hash(0))
	if err != nil || !ed25519.Verify(first.PublicKey(), []byte("message"), sig) {
		t.Errorf("signature: %v", err)
	}
}

// What a careless copy and a crash left is mended.
func TestOpenMends(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	path := filepath.Join(dir, keyFile)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, temporary+"123"), first.PublicKeyPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left over: %v, %v", entries, err)
	}
}

func TestRacing(t *testing.T) {
	for range 20 {
		dir := filepath.Join(t.TempDir(), Folder)
		names := make([]string, 8)
		var group sync.WaitGroup
		for i := range names {
			group.Go(func() {
				id, err := Open(dir)
				if err != nil {
					t.Error(err)
					return
				}
				names[i] = id.KeyID()
			})
		}
		group.Wait()
		for _, name := range names {
			if name != names[0] {
				t.Fatalf("two identities: %s, %s", name, names[0])
			}
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Fatalf("left over: %v, %v", entries, err)
		}
	}
}

// A file that is no key stays as it is: a new key would be another relay.
func TestBadKeys(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(other)
	if err != nil {
		t.Fatal(err)
	}
	good := t.TempDir()
	open(t, good)
	pair, err := os.ReadFile(filepath.Join(good, keyFile))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"empty":        nil,
		"half":         pair[:len(pair)/2],
		"another kind": pem.EncodeToMemory(&pem.Block{Type: privatePEM, Bytes: der}),
		"no PKCS#8":    pem.EncodeToMemory(&pem.Block{Type: privatePEM, Bytes: []byte("secret")}),
		"two":          append(bytes.Clone(pair), pair...),
		"text before":  append([]byte("see "), pair...),
		"headers":      pem.EncodeToMemory(&pem.Block{Type: privatePEM, Headers: map[string]string{"a": "b"}, Bytes: der}),
		"large":        append(bytes.Clone(pair), bytes.Repeat([]byte("\n"), maxKeyFile)...),
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, keyFile)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		var bad *KeyError
		if _, err := Open(dir); !errors.As(err, &bad) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := ReadOwnPublicKey(dir); !errors.As(err, &bad) || bad.Path != path {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := ReadPublicKey(path); !errors.As(err, &bad) || bad.Path != path {
			t.Errorf("%s as a public key: %v", name, err)
		}
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, content) {
			t.Errorf("%s: the file changed (%v)", name, err)
		}
	}
}

// Notes are what golang.org/x/mod's own signer and verifier make and take.
func TestNotes(t *testing.T) {
	id := open(t, t.TempDir())
	named, err := id.WithName("depot-7/relay")
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []*Identity{id, named} {
		msg, err := note.Sign(&note.Note{Text: "text\n"}, i.NoteSigner())
		if err != nil {
			t.Fatal(err)
		}
		vkey, err := i.NoteVerifierKey()
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := note.NewVerifier(vkey)
		if err != nil {
			t.Fatal(err)
		}
		ours, err := i.NoteVerifier()
		if err != nil {
			t.Fatal(err)
		}
		for _, known := range []note.Verifiers{note.VerifierList(theirs), note.VerifierList(ours), Verifiers(id.PublicKey())} {
			if n, err := note.Open(msg, known); err != nil || len(n.Sigs) != 1 || n.Sigs[0].Name != i.Name() {
				t.Errorf("%s: %v", i.Name(), err)
			}
		}
		var unverified *note.UnverifiedNoteError
		if _, err := note.Open(msg, Verifiers(open(t, t.TempDir()).PublicKey())); !errors.As(err, &unverified) {
			t.Errorf("another key: %v", err)
		}
	}
	for _, bad := range []string{"", "a b", "a+b", "ä", "a\n", strings.Repeat("a", maxName+1)} {
		var name *NameError
		if _, err := id.WithName(bad); !errors.As(err, &name) {
			t.Errorf("name %q: %v", bad, err)
		}
	}
}

func FuzzParsePublicKey(f *testing.F) {
	dir := f.TempDir()
	id, err := Open(dir)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(id.PublicKeyPEM())
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := ParsePublicKey(data)
		var bad *KeyError
		if err != nil {
			if !errors.As(err, &bad) {
				t.Fatalf("%T", err)
			}
			return
		}
		if len(key) != ed25519.PublicKeySize || len(data) > maxKeyFile {
			t.Fatalf("%d bytes from %d", len(key), len(data))
		}
	})
}
