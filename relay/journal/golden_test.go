package journal

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/plimsoll/plimsoll/relay/identity"
)

var update = flag.Bool("update", false, "write testdata/golden anew")

// fixedIdentity is the same for every run: signatures by Ed25519 are deterministic.
func fixedIdentity(t testing.TB) *identity.Identity {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	id, err := identity.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// fixed is the journal of testdata/golden.
func fixed(t testing.TB) *Journal {
	t.Helper()
	j := reopen(t, filepath.Join(t.TempDir(), Folder), fixedIdentity(t))
	for i := range 7 {
		add(t, j, i)
	}
	return j
}

// What a relay wrote today is what auditors read in ten years, so the bytes are kept here.
func TestGolden(t *testing.T) {
	j := fixed(t)
	proof, err := j.Prove(t.Context(), 4)
	if err != nil {
		t.Fatal(err)
	}
	proofText, err := proof.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join("testdata", "golden")
	now := read(t, j.dir)
	now["proof.json"] = string(proofText)
	now["relay.pub"] = string(j.options.Identity.PublicKeyPEM())
	for name, content := range now {
		path := filepath.Join(dir, name)
		if *update {
			if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(path); err != nil || string(want) != content {
			t.Errorf("%s differs (%v)", path, err)
		}
	}
	key, err := identity.ReadPublicKey(filepath.Join(dir, "relay.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if report, err := Verify(t.Context(), dir, key); err != nil || report.Records != 7 || report.HashesDamaged {
		t.Errorf("%+v, %v", report, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "proof.json"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := ParseProof(text)
	if err != nil {
		t.Fatal(err)
	}
	if proven, err := p.Verify(key); err != nil || proven.Record.Index != 4 {
		t.Errorf("%+v, %v", proven, err)
	}
}
