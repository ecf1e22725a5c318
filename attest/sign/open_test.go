package sign_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sigstore/cosign/v2/pkg/cosign"
	youmark "github.com/youmark/pkcs8"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/sign"
)

func password(p string) func() ([]byte, error) {
	return func() ([]byte, error) { return []byte(p), nil }
}

func writeKey(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func newKey(t *testing.T, kind sign.Kind) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	if kind == sign.Ed25519 {
		_, key, err = ed25519.GenerateKey(rand.Reader)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// forms are the ways in which a private key is found in files.
func forms(t *testing.T, key crypto.Signer, secret string) map[string][]byte {
	t.Helper()
	der, err := youmark.MarshalPrivateKey(key, []byte(secret), nil)
	if err != nil {
		t.Fatal(err)
	}
	plain := pkcs8(t, key)
	imported, err := sign.Import(plain, nil, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{
		"PKCS#8":           plain,
		"encrypted PKCS#8": pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der}),
		"cosign":           imported.Private,
	}
	if ec, ok := key.(*ecdsa.PrivateKey); ok {
		sec1, err := x509.MarshalECPrivateKey(ec)
		if err != nil {
			t.Fatal(err)
		}
		block := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})
		all["SEC 1"] = block
		all["SEC 1 with parameters"] = append(pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7}}), block...)
	}
	return all
}

func TestOpenFilesAndVariables(t *testing.T) {
	for _, kind := range []sign.Kind{sign.ECDSA, sign.Ed25519} {
		key := newKey(t, kind)
		id := attest.KeyID(key.Public())
		for form, data := range forms(t, key, "s3cret") {
			path := writeKey(t, t.TempDir(), "some.key", data)
			env := func(name string) (string, bool) { return string(data), name == "KEY" }
			for _, ref := range []string{path, "env://KEY"} {
				s, err := sign.Open(t.Context(), ref, sign.Options{LookupEnv: env, Password: password("s3cret")})
				if err != nil || s.KeyID() != id || !s.Deterministic() {
					t.Errorf("%s, %s, %s: %v", kind, form, ref, err)
				}
				// The password is asked for when there is something to decrypt, and not else.
				asked := false
				_, err = sign.Open(t.Context(), ref, sign.Options{LookupEnv: env, Password: func() ([]byte, error) { asked = true; return []byte("wrong"), nil }})
				var wrong *sign.PasswordError
				encrypted := strings.Contains(form, "encrypted") || form == "cosign"
				if asked != encrypted || errors.As(err, &wrong) != encrypted || encrypted != sign.IsEncrypted(data) {
					t.Errorf("%s, %s: asked %v, %v", kind, form, asked, err)
				}
				if _, err = sign.Open(t.Context(), ref, sign.Options{LookupEnv: env}); (err != nil) != encrypted {
					t.Errorf("%s, %s, without a password: %v", kind, form, err)
				}
			}
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	writeKey(t, dir, "large", bytes.Repeat([]byte("x"), 1<<20))
	env := func(name string) (string, bool) { return "", name == "EMPTY" }
	for ref, want := range map[string]string{
		"":                               "no reference",
		filepath.Join(dir, "none"):       "no such file",
		dir:                              "is a directory",
		filepath.Join(dir, "large"):      "the limit is",
		"env://EMPTY":                    "not set",
		"env://NONE":                     "not set",
		"pkcs11:token=x":                 "PKCS#11",
		"nowhere://key":                  "sigstore-kms-nowhere: starting it: executable file not found",
		"../../bin/sh://x":               "no name of a plugin",
		"/abs://x":                       "no name of a plugin",
		"A://x":                          "no name of a plugin",
		"://x":                           "no name of a plugin",
		strings.Repeat("a", 65) + "://x": "no name of a plugin",
	} {
		var open *sign.OpenError
		if _, err := sign.Open(t.Context(), ref, sign.Options{LookupEnv: env}); !errors.As(err, &open) || open.Ref != ref || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v", ref, err)
		}
	}
	if _, err := sign.Open(t.Context(), filepath.Join(dir, "none"), sign.Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := sign.Open(t.Context(), "env://HOME", sign.Options{}); err == nil {
		t.Error("the library read the environment")
	}
	if _, err := sign.Open(t.Context(), "nowhere://key", sign.Options{}); !errors.Is(err, exec.ErrNotFound) {
		t.Error(err)
	}
}

// What cosign makes of an imported key is the same key.
func TestImportIsCosigns(t *testing.T) {
	for _, kind := range []sign.Kind{sign.ECDSA, sign.Ed25519} {
		pair, err := sign.Generate(kind, []byte("old"))
		if err != nil {
			t.Fatal(err)
		}
		again, err := sign.Import(pair.Private, []byte("old"), []byte("new"))
		if err != nil || again.ID != pair.ID || !bytes.Equal(again.Public, pair.Public) {
			t.Fatalf("%s: %v", kind, err)
		}
		theirs, err := cosign.LoadPrivateKey(again.Private, []byte("new"), nil)
		if err != nil {
			t.Fatalf("%s: cosign: %v", kind, err)
		}
		if pub, err := theirs.PublicKey(); err != nil || attest.KeyID(pub) != pair.ID {
			t.Errorf("%s: %v", kind, err)
		}
		var wrong *sign.PasswordError
		if _, err := sign.LoadSigner(again.Private, []byte("old")); !errors.As(err, &wrong) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if _, err := sign.Generate("rsa", nil); err == nil {
		t.Error("an RSA key was made")
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var bad *sign.KeyError
	for _, key := range []any{rsaKey, p384} {
		if _, err := sign.Import(pkcs8(t, key), nil, nil); !errors.As(err, &bad) {
			t.Errorf("%T: %v", key, err)
		}
	}
}

// OpenSSL's files are what people have.
func TestOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	run := func(args ...string) []byte {
		t.Helper()
		cmd := exec.Command("openssl", args...)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("openssl %s: %v", strings.Join(args, " "), err)
		}
		return out
	}
	run("ecparam", "-genkey", "-name", "prime256v1", "-out", "ec.pem")
	run("genpkey", "-algorithm", "ed25519", "-out", "ed.pem")
	for _, name := range []string{"ec.pem", "ed.pem"} {
		pub, err := attest.ParsePublicKeys(run("pkey", "-in", name, "-pubout"))
		if err != nil {
			t.Fatal(err)
		}
		for form, args := range map[string][]string{
			"as made":  {"pkey", "-in", name},
			"aes256":   {"pkcs8", "-topk8", "-in", name, "-v2", "aes-256-cbc", "-passout", "pass:s3cret"},
			"aes128":   {"pkcs8", "-topk8", "-in", name, "-v2", "aes-128-cbc", "-iter", "50000", "-passout", "pass:s3cret"},
			"sha1":     {"pkcs8", "-topk8", "-in", name, "-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA1", "-passout", "pass:s3cret"},
			"read raw": nil,
		} {
			var data []byte
			if args != nil {
				data = run(args...)
			} else if data, err = os.ReadFile(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			s, err := sign.LoadSigner(data, []byte("s3cret"))
			if err != nil || s.KeyID() != attest.KeyID(pub[0]) {
				t.Errorf("%s, %s: %v", name, form, err)
			}
		}
		var bad *sign.KeyError
		for form, args := range map[string][]string{
			"scrypt":      {"pkcs8", "-topk8", "-in", name, "-scrypt", "-passout", "pass:s3cret"},
			"many rounds": {"pkcs8", "-topk8", "-in", name, "-v2", "aes-256-cbc", "-iter", "10000001", "-passout", "pass:s3cret"},
			"sha512":      {"pkcs8", "-topk8", "-in", name, "-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA512", "-passout", "pass:s3cret"},
		} {
			if form == "many rounds" && name != "ed.pem" {
				continue // it takes its time
			}
			if _, err := sign.LoadSigner(run(args...), []byte("s3cret")); !errors.As(err, &bad) {
				t.Errorf("%s, %s: %v", name, form, err)
			}
		}
	}
	var bad *sign.KeyError
	if _, err := sign.LoadSigner(run("ec", "-in", "ec.pem", "-aes256", "-passout", "pass:s3cret"), []byte("s3cret")); !errors.As(err, &bad) {
		t.Errorf("encrypted SEC 1: %v", err)
	}
}

// built is the plugin, which is built once.
var built struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir) //nolint:errcheck // scratch
	}
	os.Exit(code)
}

// withPlugin puts sigstore-kms-filekms into PATH, and gives a folder with keys for it.
func withPlugin(t *testing.T, key crypto.Signer) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "plimsoll-kms-"); built.err != nil {
			return
		}
		out, err := exec.Command("go", "build", "-o", built.dir+"/", "./testdata/sigstore-kms-filekms").CombinedOutput()
		if err != nil {
			built.err = errors.New(err.Error() + "\n" + string(out))
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	t.Setenv("PATH", built.dir+":"+os.Getenv("PATH"))
	dir := t.TempDir()
	writeKey(t, dir, "key.pem", pkcs8(t, key))
	writeKey(t, dir, "other.pem", pkcs8(t, newKey(t, sign.ECDSA)))
	return dir
}

func calls(t *testing.T, dir, method string) int {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(log), method+"\n")
}

func TestPluginSigns(t *testing.T) {
	for _, kind := range []sign.Kind{sign.ECDSA, sign.Ed25519} {
		key := newKey(t, kind)
		dir := withPlugin(t, key)
		s, err := sign.Open(t.Context(), "filekms://good"+dir, sign.Options{})
		if err != nil || s.KeyID() != attest.KeyID(key.Public()) || s.Deterministic() {
			t.Fatalf("%s: %v", kind, err)
		}
		one, err := s.SignManifest(subject, repository)
		if err != nil {
			t.Fatal(err)
		}
		if err := sigstoreVerify(t, one[0].Blobs[1].Data, key.Public(), subject.Digest); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		// In one build the same gets the same signature, or a rebuild would have to guess which it was.
		two, err := s.SignManifest(subject, repository)
		if err != nil || one[0].Manifest.Digest != two[0].Manifest.Digest || one[1].Manifest.Digest != two[1].Manifest.Digest {
			t.Errorf("%s: signed twice in one build: %v", kind, err)
		}
		if n := calls(t, dir, "signMessage"); n != 2 {
			t.Errorf("%s: signed %d times, want 2", kind, n)
		}
		again, err := sign.Open(t.Context(), "filekms://good"+dir, sign.Options{})
		if err != nil {
			t.Fatal(err)
		}
		other, err := again.SignManifest(subject, repository)
		if err != nil {
			t.Fatal(err)
		}
		if same := other[0].Manifest.Digest == one[0].Manifest.Digest; same != (kind == sign.Ed25519) {
			t.Errorf("%s: the next build has the same signature: %v", kind, same)
		}
	}
}

func TestPluginMisbehaves(t *testing.T) {
	dir := withPlugin(t, newKey(t, sign.ECDSA))
	for mode, want := range map[string]string{
		"other":   "not by the key whose public half it gave",
		"empty":   "an answer that is none",
		"garbage": "parsing plugin response",
		"refuse":  "the token is locked",
	} {
		s, err := sign.Open(t.Context(), "filekms://"+mode+dir, sign.Options{})
		if err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		var failed *sign.PluginError
		if _, err := s.SignManifest(subject, repository); !errors.As(err, &failed) || failed.Program != "sigstore-kms-filekms" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", mode, err)
		}
	}
	if _, err := sign.Open(t.Context(), "filekms://emptykey"+dir, sign.Options{}); err == nil || !strings.Contains(err.Error(), "an answer that is none") {
		t.Errorf("no public key: %v", err)
	}
	if _, err := sign.Open(t.Context(), "filekms://good/nowhere", sign.Options{}); err == nil {
		t.Error("a key that is not there was opened")
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var bad *sign.KeyError
	if _, err := sign.Open(t.Context(), "filekms://good"+withPlugin(t, p384), sign.Options{}); !errors.As(err, &bad) {
		t.Errorf("P-384: %v", err)
	}
	// A token that waits for a finger is given up with what it was opened for.
	ctx, cancel := context.WithCancel(t.Context())
	s, err := sign.Open(ctx, "filekms://hang"+dir, sign.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := s.SignManifest(subject, repository); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
