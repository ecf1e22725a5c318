package siteca

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	maxPEMFile  = 1 << 20 // bytes
	maxCAs      = 256
	expiresSoon = 30 * 24 * time.Hour
)

// customer is what the customer brought: a server certificate of their own, authorities for client certificates, or both.
type customer struct {
	files []byte           // everything that was read, to see whether it changed
	cert  *tls.Certificate // nil when there is none
	cas   []*x509.Certificate
	notes []string // about the files, whatever the time is
}

// readCustomer reads the customer's files; an empty path is none.
func (ca *CA) readCustomer(certFile, keyFile, clientCAFile string) (*customer, error) {
	c := &customer{}
	var parts [3][]byte
	for i, path := range []string{certFile, keyFile, clientCAFile} {
		if path == "" {
			continue
		}
		data, err := readPEMFile(path)
		if err != nil {
			return nil, err
		}
		parts[i] = data
		c.files = fmt.Appendf(c.files, "%d %d\n%s", i, len(data), data)
	}
	if certFile != "" {
		if err := c.readPair(parts[0], parts[1]); err != nil {
			return nil, fmt.Errorf("%s with %s: %w", certFile, keyFile, err)
		}
		if info, err := os.Stat(keyFile); err == nil && info.Mode().Perm()&0o077 != 0 {
			c.notes = append(c.notes, fmt.Sprintf("others than its owner may use the key: its mode is %o", info.Mode().Perm()))
		}
	}
	if clientCAFile != "" {
		cas, err := ca.parseClientCAs(parts[2])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", clientCAFile, err)
		}
		c.cas = cas
	}
	return c, nil
}

func (c *customer) readPair(certs, key []byte) error {
	cert, err := tls.X509KeyPair(certs, key)
	if err != nil {
		return err
	}
	c.cert = &cert
	for i, raw := range cert.Certificate[1:] {
		if _, err := x509.ParseCertificate(raw); err != nil {
			return fmt.Errorf("certificate %d: %w", i+2, err)
		}
	}
	leaf := cert.Leaf
	if len(leaf.ExtKeyUsage) > 0 && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
		c.notes = append(c.notes, "the certificate is not for servers (extended key usage)")
	}
	if len(leaf.DNSNames) == 0 && len(leaf.IPAddresses) == 0 {
		c.notes = append(c.notes, "the certificate has no subject alternative name: clients accept it for no name")
	}
	return nil
}

// parseClientCAs reads authorities in PEM. The site's own must not be among them: its certificates count only where an
// account lists them, or none could be revoked.
func (ca *CA) parseClientCAs(data []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a block of type %.40q, want certificates only", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(all)+1, err)
		}
		switch {
		case !cert.IsCA:
			return nil, fmt.Errorf("certificate %d (%s) is not an authority's", len(all)+1, cert.Subject)
		case bytes.Equal(cert.RawSubjectPublicKeyInfo, ca.cert.RawSubjectPublicKeyInfo):
			return nil, errors.New("the site's own CA: its certificates are accepted already, those that accounts list")
		case len(all) == maxCAs:
			return nil, fmt.Errorf("more than %d certificates", maxCAs)
		}
		all = append(all, cert)
	}
	if len(all) == 0 || len(bytes.TrimSpace(data)) > 0 {
		return nil, fmt.Errorf("%d certificates, and %d bytes that are not PEM", len(all), len(bytes.TrimSpace(data)))
	}
	return all, nil
}

// problems are what people should know about the customer's certificate. None of them stops serving: clients may have
// other names and other clocks than the relay thinks.
func (c *customer) problems(names []string, now time.Time, clockWrong bool) []string {
	if c.cert == nil {
		return nil
	}
	all := slices.Clone(c.notes)
	if missing := uncovered(c.cert.Leaf, names); len(missing) > 0 {
		all = append(all, "the certificate is not good for "+strings.Join(missing, ", ")+": those who ask for these get the site CA's")
	}
	leaf := c.cert.Leaf
	switch {
	case clockWrong:
	case now.Before(leaf.NotBefore):
		all = append(all, "the certificate is not valid before "+leaf.NotBefore.Format(time.DateOnly))
	case now.After(leaf.NotAfter):
		all = append(all, "the certificate ended on "+leaf.NotAfter.Format(time.DateOnly))
	case leaf.NotAfter.Sub(now) < expiresSoon:
		all = append(all, "the certificate ends on "+leaf.NotAfter.Format(time.DateOnly))
	}
	return all
}

func readPEMFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	data, err := io.ReadAll(io.LimitReader(f, maxPEMFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxPEMFile {
		return nil, fmt.Errorf("%s: more than %d bytes", path, maxPEMFile)
	}
	return data, nil
}
