// Package identity is the relay's own key: what it signs its journal and its receipts with.
//
// The key says which relay speaks, never that a release is good: it is made at the site, by the relay itself, and no
// verifier of releases trusts it. It is an Ed25519 key (RFC 8032), because such signatures are deterministic and signed
// notes (golang.org/x/mod/sumdb/note) know it.
package identity

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/plimsoll/plimsoll/internal/durable"
)

// Folder is where the key is, below a relay's data folder.
const Folder = "identity"

const (
	keyFile    = "key.pem"
	temporary  = ".key.pem.tmp-"
	namePrefix = "plimsoll-relay-"
	privatePEM = "PRIVATE KEY" // PKCS#8, RFC 5958
	publicPEM  = "PUBLIC KEY"  // SubjectPublicKeyInfo, RFC 5280

	maxKeyFile = 4 << 10 // bytes of a PEM file; a key has about 120
	maxName    = 128     // bytes

	algEd25519 = 1 // of signed notes, in front of a key's bytes
)

// KeyError says that a file with a key is not one. The relay never replaces it: a new key would be another relay.
type KeyError struct {
	Path   string // empty: bytes that came without a file
	Reason string
}

func (e *KeyError) Error() string {
	if e.Path == "" {
		return "key: " + e.Reason
	}
	return fmt.Sprintf("key %s: %s", e.Path, e.Reason)
}

// NameError is a name that a relay cannot have.
type NameError struct{ Name string }

func (e *NameError) Error() string {
	return fmt.Sprintf("relay name %q: want up to %d letters, digits, dots, dashes, underscores and slashes", e.Name, maxName)
}

// Identity is a relay's name and key. It does not change and is safe for concurrent use.
type Identity struct {
	name string
	key  ed25519.PrivateKey
	id   string
}

// Open reads the key in a folder, or makes one there, with the folder. Of processes that race, all get the same key. A
// mode by which others could read the key is narrowed.
func Open(dir string) (*Identity, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	id, err := load(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err = create(dir); err == nil {
			id, err = load(dir)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return id, nil
}

func load(dir string) (*Identity, error) {
	path := filepath.Join(dir, keyFile)
	data, info, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 { // a restored backup, or a careless copy
		if err := os.Chmod(path, 0o600); err != nil {
			return nil, err
		}
	}
	if err := sweep(dir); err != nil {
		return nil, err
	}
	key, err := parsePrivate(data)
	if err != nil {
		return nil, &KeyError{Path: path, Reason: err.Error()}
	}
	return newIdentity(key)
}

func readBounded(path string) ([]byte, fs.FileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err == nil && len(data) > maxKeyFile {
		err = &KeyError{Path: path, Reason: fmt.Sprintf("more than %d bytes", maxKeyFile)}
	}
	return data, info, err
}

// create makes a key. The file gets its name by a link, which of two processes only the first can make, and which is made
// when the content is on the disk: a power cut leaves no half of a key.
func create(dir string) (err error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, temporary+"*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(pem.EncodeToMemory(&pem.Block{Type: privatePEM, Bytes: der}))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Link(f.Name(), filepath.Join(dir, keyFile))
	}
	if _, there := os.Stat(filepath.Join(dir, keyFile)); err != nil && there == nil {
		err = nil // another process was first, and may have swept this one's file away already
	}
	if gone := os.Remove(f.Name()); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return errors.Join(err, durable.SyncDir(dir))
}

// sweep removes what a crash left of making a key: a private key that nobody needs.
func sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), temporary) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func newIdentity(key ed25519.PrivateKey) (*Identity, error) {
	id, err := KeyID(key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	return &Identity{name: namePrefix + id[:8], key: key, id: id}, nil
}

// WithName gives the same key under another name. The name stands in signatures, beside the key's hash.
func (i *Identity) WithName(name string) (*Identity, error) {
	if !validName(name) {
		return nil, &NameError{name}
	}
	return &Identity{name: name, key: i.key, id: i.id}, nil
}

func validName(name string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-/", r) {
			return false
		}
	}
	return true
}

// Name is the relay's name: plimsoll-relay- and the first eight digits of KeyID, unless another was given.
func (i *Identity) Name() string { return i.name }

// KeyID is the SHA-256 of the public key's SubjectPublicKeyInfo in hexadecimal digits, as for release keys.
func (i *Identity) KeyID() string { return i.id }

// Signer signs with the key.
func (i *Identity) Signer() crypto.Signer { return i.key }

// PublicKey is the public key.
func (i *Identity) PublicKey() ed25519.PublicKey { return i.key.Public().(ed25519.PublicKey) }

// PublicKeyPEM is the public key for others, as a PEM block.
func (i *Identity) PublicKeyPEM() []byte {
	der, err := x509.MarshalPKIXPublicKey(i.PublicKey())
	if err != nil {
		panic(err) // an Ed25519 key can always be encoded
	}
	return pem.EncodeToMemory(&pem.Block{Type: publicPEM, Bytes: der})
}

// NoteSigner signs notes.
func (i *Identity) NoteSigner() note.Signer { return noteSigner{i} }

// NoteVerifierKey is the public key as verifiers of notes take it: name+hash+key.
func (i *Identity) NoteVerifierKey() (string, error) {
	return note.NewEd25519VerifierKey(i.name, i.PublicKey())
}

// NoteVerifier verifies notes that were signed under the present name. See Verifiers for other names.
func (i *Identity) NoteVerifier() (note.Verifier, error) {
	return Verifiers(i.PublicKey()).Verifier(i.name, noteHash(i.name, i.PublicKey()))
}

type noteSigner struct{ i *Identity }

func (s noteSigner) Name() string                    { return s.i.name }
func (s noteSigner) KeyHash() uint32                 { return noteHash(s.i.name, s.i.PublicKey()) }
func (s noteSigner) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.i.key, msg), nil }

func noteHash(name string, key ed25519.PublicKey) uint32 {
	sum := sha256.Sum256(append([]byte(name+"\n"), append([]byte{algEd25519}, key...)...))
	return uint32(sum[0])<<24 | uint32(sum[1])<<16 | uint32(sum[2])<<8 | uint32(sum[3])
}

// Verifiers verifies notes by a key, under whatever name they were signed: a relay that was given another name is the
// same relay.
func Verifiers(key ed25519.PublicKey) note.Verifiers { return verifiers{key} }

type verifiers struct{ key ed25519.PublicKey }

func (v verifiers) Verifier(name string, hash uint32) (note.Verifier, error) {
	if !validName(name) || hash != noteHash(name, v.key) {
		return nil, &note.UnknownVerifierError{Name: name, KeyHash: hash}
	}
	return note.NewVerifier(fmt.Sprintf("%s+%08x+%s", name, hash,
		base64.StdEncoding.EncodeToString(append([]byte{algEd25519}, v.key...))))
}

// KeyID is the SHA-256 of a public key's SubjectPublicKeyInfo in hexadecimal digits.
func KeyID(key ed25519.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// ReadPublicKey reads a relay's public key from a PEM file, as PublicKeyPEM makes it.
func ReadPublicKey(path string) (ed25519.PublicKey, error) {
	data, _, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	key, err := ParsePublicKey(data)
	var bad *KeyError
	if errors.As(err, &bad) {
		bad.Path = path
	}
	return key, err
}

// ReadOwnPublicKey gives the public key of the key in a folder. It makes none: without one the error is fs.ErrNotExist.
func ReadOwnPublicKey(dir string) (ed25519.PublicKey, error) {
	path := filepath.Join(dir, keyFile)
	data, _, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	key, err := parsePrivate(data)
	if err != nil {
		return nil, &KeyError{Path: path, Reason: err.Error()}
	}
	return key.Public().(ed25519.PublicKey), nil
}

// ParsePublicKey reads a relay's public key: one PEM block with an Ed25519 key.
func ParsePublicKey(data []byte) (ed25519.PublicKey, error) {
	der, err := onlyBlock(data, publicPEM)
	if err != nil {
		return nil, &KeyError{Reason: err.Error()}
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, &KeyError{Reason: err.Error()}
	}
	key, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return nil, &KeyError{Reason: fmt.Sprintf("is a %T, want Ed25519: this is not a relay's key", parsed)}
	}
	return key, nil
}

func parsePrivate(data []byte) (ed25519.PrivateKey, error) {
	der, err := onlyBlock(data, privatePEM)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("no PKCS#8 private key") // the parser's words may quote the key
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("is a %T, want Ed25519", parsed)
	}
	return key, nil
}

// onlyBlock takes a PEM file with one block and nothing else: of two keys, two readers could take different ones.
func onlyBlock(data []byte, kind string) ([]byte, error) {
	if len(data) > maxKeyFile {
		return nil, fmt.Errorf("more than %d bytes", maxKeyFile)
	}
	block, rest := pem.Decode(data)
	switch {
	case block == nil:
		return nil, errors.New("no PEM block")
	case block.Type != kind:
		return nil, fmt.Errorf("PEM block %q, want %q", block.Type, kind)
	case len(block.Headers) > 0:
		return nil, errors.New("the PEM block has headers")
	case strings.TrimSpace(string(rest)) != "" || !strings.HasPrefix(strings.TrimSpace(string(data)), "-----BEGIN "):
		return nil, errors.New("more than one PEM block")
	}
	return block.Bytes, nil
}
