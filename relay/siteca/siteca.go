// Package siteca is the site's own certificate authority: made at the first start, without network, it issues the
// relay's server certificate for all names that robots use for it.
package siteca

import (
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
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/plimsoll/plimsoll/internal/durable"
)

const (
	caLife     = 20 * 365 * 24 * time.Hour
	serverLife = 825 * 24 * time.Hour // the longest that common clients accept
	renewAhead = serverLife / 3
)

// notBefore is a day before any box with this program existed, so that a robot or relay whose clock lost its battery
// only fails when it is before that.
func notBefore() time.Time { return time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC) }

// CA is a certificate authority in a folder: ca.pem and server.pem hold a key with its certificate, ca.crt and
// server.crt the certificate alone.
type CA struct {
	dir  string
	cert *x509.Certificate
	key  crypto.Signer
}

// Open reads the authority in dir, or makes one for the named site there.
func Open(dir, site string, now time.Time) (*CA, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("site CA: %w", err)
	}
	ca := &CA{dir: dir}
	var err error
	ca.cert, ca.key, err = readPair(dir, "ca")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = ca.create(site, now)
	case err == nil:
		err = ca.writeCert("ca", ca.cert) // a crash may have come between the pair and its copy
	}
	if err != nil {
		return nil, fmt.Errorf("site CA: %w", err)
	}
	return ca, nil
}

func (ca *CA) writeCert(base string, cert *x509.Certificate) error {
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	return durable.WriteFile(filepath.Join(ca.dir, base+".crt"), block, 0o644)
}

// CertFile is the path, in the folder of an authority, of the CA certificate that robots must trust.
func CertFile(dir string) string { return filepath.Join(dir, "ca.crt") }

func (ca *CA) create(site string, now time.Time) error {
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"Plimsoll"}, CommonName: "Plimsoll site CA " + site},
		NotBefore:             notBefore(),
		NotAfter:              later(now).Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	cert, key, err := ca.issue("ca", template, nil)
	ca.cert, ca.key = cert, key
	return err
}

// Server gives a certificate for the names (DNS names and IP addresses), and issues a new one when the one in the
// folder lacks a name or nears its end.
func (ca *CA) Server(names []string, now time.Time) (*tls.Certificate, error) {
	cert, key, err := readPair(ca.dir, "server")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	if err != nil || !covers(cert, names) || cert.CheckSignatureFrom(ca.cert) != nil || now.Add(renewAhead).After(cert.NotAfter) {
		template := &x509.Certificate{
			Subject:     pkix.Name{Organization: []string{"Plimsoll"}, CommonName: names[0]},
			NotBefore:   notBefore(),
			NotAfter:    later(now).Add(serverLife),
			KeyUsage:    x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}
		for _, name := range names {
			if ip := net.ParseIP(name); ip != nil {
				template.IPAddresses = append(template.IPAddresses, ip)
			} else {
				template.DNSNames = append(template.DNSNames, name)
			}
		}
		if cert, key, err = ca.issue("server", template, ca.cert); err != nil {
			return nil, fmt.Errorf("server certificate: %w", err)
		}
	}
	return &tls.Certificate{Certificate: [][]byte{cert.Raw, ca.cert.Raw}, PrivateKey: key, Leaf: cert}, nil
}

// later keeps a clock that went back to 1970 from issuing certificates that have already ended: no time before this
// code was written can be right.
func later(now time.Time) time.Time {
	if written := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC); now.Before(written) {
		return written
	}
	return now
}

func covers(cert *x509.Certificate, names []string) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return cert.VerifyHostname(name) != nil })
}

// issue signs the template with the CA's key, or with its own when parent is nil, and stores key and certificate.
func (ca *CA) issue(base string, template, parent *x509.Certificate) (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, nil, err
	}
	signer := ca.key
	if parent == nil {
		parent, signer = template, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
	// One file holds both, so that no crash leaves a key beside a certificate of another key; ca.crt is a copy for
	// people and clients.
	if err := durable.WriteFile(filepath.Join(ca.dir, base+".pem"), append(keyPEM, certPEM...), 0o600); err != nil {
		return nil, nil, err
	}
	return cert, key, ca.writeCert(base, cert)
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
