// Package siteca is the site's own certificate authority: made at the first start, without network, it issues the
// relay's server certificate for all names that robots use for it, and client certificates by which robots prove who they
// are.
package siteca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/internal/durable"
)

const caLife = 20 * 365 * 24 * time.Hour

// The files of an authority: a .pem holds a key with its certificate, a .crt the certificate alone.
const (
	caBase     = "ca"
	serverBase = "server"
	lockFile   = "lock"
)

// CA is a certificate authority in a folder. Several processes may have one open.
type CA struct {
	dir   string
	cert  *x509.Certificate
	key   crypto.Signer
	write func(path string, data []byte, perm os.FileMode) error
}

// Open reads the authority in dir, or makes one for the named site there. Modes by which others could read its keys are
// mended.
func Open(dir, site string, now time.Time) (*CA, error) {
	return open(dir, site, now, durable.WriteFile)
}

func open(dir, site string, now time.Time, write func(string, []byte, os.FileMode) error) (_ *CA, err error) {
	ca := &CA{dir: dir, write: write}
	if err := ca.prepareDir(); err != nil {
		return nil, fmt.Errorf("site CA: %w", err)
	}
	// Two processes that start at once must not make two authorities, of which one is lost.
	unlock, err := ca.lock()
	if err != nil {
		return nil, fmt.Errorf("site CA: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	ca.cert, ca.key, err = readPair(dir, caBase)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = ca.create(site, now)
	case err == nil:
		err = ca.writeCert(caBase, ca.cert) // a crash may have come between the pair and its copy
	}
	if err != nil {
		return nil, fmt.Errorf("site CA: %w", err)
	}
	return ca, nil
}

// prepareDir makes the folder, and mends what a restored backup or a careless copy left readable for others.
func (ca *CA) prepareDir() error {
	if err := durable.MkdirAll(ca.dir, 0o700); err != nil {
		return err
	}
	if err := mend(ca.dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(ca.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		// What a crash left of a write has a key in it, too.
		if strings.Contains(e.Name(), ".pem") {
			if err := mend(filepath.Join(ca.dir, e.Name()), 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

func mend(path string, most os.FileMode) error {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&^most == 0 {
		return err
	}
	return os.Chmod(path, most)
}

// lock waits until no other process changes the folder, which takes milliseconds. Closing the file releases the lock, as
// the death of the process does.
func (ca *CA) lock() (unlock func() error, err error) {
	f, err := durable.OpenLock(filepath.Join(ca.dir, lockFile), 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("%s: %w", lockFile, err), f.Close())
		}
	}
}

// CertFile is the path, in the folder of an authority, of the CA certificate that robots must trust.
func CertFile(dir string) string { return filepath.Join(dir, caBase+".crt") }

// Certificate is the authority's own certificate.
func (ca *CA) Certificate() *x509.Certificate { return ca.cert }

// PEM is the authority's own certificate as robots trust it.
func (ca *CA) PEM() []byte { return certPEM(ca.cert) }

func (ca *CA) create(site string, now time.Time) error {
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"Plimsoll"}, CommonName: commonName("Plimsoll site CA " + site)},
		NotBefore:             notBefore(),
		NotAfter:              later(now).Add(caLife).Truncate(time.Second),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	cert, key, err := ca.issue(template)
	if err != nil {
		return err
	}
	ca.cert, ca.key = cert, key
	return ca.store(caBase, cert, key)
}

// commonName cuts a text to what a certificate holds (RFC 5280, ub-common-name): OpenSSL refuses more.
func commonName(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), 64)], "")
}

// issue makes a key and signs the template for it with the CA's key, or with the key itself when there is no CA yet.
func (ca *CA) issue(template *x509.Certificate) (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, nil, err
	}
	parent, signer := ca.cert, ca.key
	if parent == nil {
		parent, signer = template, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(raw)
	return cert, key, err
}

// store writes a key with its certificate. One file holds both, so that no crash leaves a key beside a certificate of
// another key; the .crt is a copy for people and clients.
func (ca *CA) store(base string, cert *x509.Certificate, key crypto.Signer) error {
	private, err := keyPEM(key)
	if err != nil {
		return err
	}
	if err := ca.write(filepath.Join(ca.dir, base+".pem"), append(private, certPEM(cert)...), 0o600); err != nil {
		return err
	}
	return ca.writeCert(base, cert)
}

// writeCert writes the copy of a certificate, unless it is there: a full disk must not keep a relay from starting.
func (ca *CA) writeCert(base string, cert *x509.Certificate) error {
	path, want := filepath.Join(ca.dir, base+".crt"), certPEM(cert)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, want) {
		return nil
	}
	return ca.write(path, want, 0o644)
}

func certPEM(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

func keyPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func readPair(dir, base string) (*x509.Certificate, crypto.Signer, error) {
	data, err := os.ReadFile(filepath.Join(dir, base+".pem"))
	if err != nil {
		return nil, nil, err
	}
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, nil, fmt.Errorf("%s.pem: %w", base, err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, nil, fmt.Errorf("%s.pem: the key cannot sign", base)
	}
	return pair.Leaf, signer, nil
}

// Ends is when the authority's own certificate ends.
func (ca *CA) Ends() time.Time { return ca.cert.NotAfter }
