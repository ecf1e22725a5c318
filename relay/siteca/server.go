package siteca

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	serverLife = 825 * 24 * time.Hour // the longest that common clients accept
	renewAhead = serverLife / 3
)

// maxNames bounds the names of one certificate: each handshake carries them.
const maxNames = 256

// Server gives a certificate for the names (DNS names, also with "*" as the first label, and IP addresses), and issues a
// new one when the one in the folder lacks a name or nears its end.
func (ca *CA) Server(names []string, now time.Time) (*tls.Certificate, error) {
	names, err := normalNames(names)
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	cert, err := ca.server(names, now)
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	return cert, nil
}

// server is Server for names in normal form. When a new certificate could not be stored, it gives that certificate with
// the error: a full disk does not stop serving.
func (ca *CA) server(names []string, now time.Time) (_ *tls.Certificate, err error) {
	unlock, err := ca.lock()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	cert, key, err := readPair(ca.dir, serverBase)
	if errors.Is(err, fs.ErrPermission) {
		return nil, err
	}
	if err == nil && cert.CheckSignatureFrom(ca.cert) == nil && !ca.due(cert, names, now) {
		return ca.serve(cert, key), ca.writeCert(serverBase, cert)
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{Organization: []string{"Plimsoll"}, CommonName: commonName(names[0])},
		NotBefore:   notBefore(),
		NotAfter:    ca.end(now, serverLife),
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
	if cert, key, err = ca.issue(template); err != nil {
		return nil, err
	}
	return ca.serve(cert, key), ca.store(serverBase, cert, key)
}

func (ca *CA) serve(cert *x509.Certificate, key crypto.Signer) *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{cert.Raw, ca.cert.Raw}, PrivateKey: key, Leaf: cert}
}

// due reports whether a server certificate of the authority must be replaced.
func (ca *CA) due(cert *x509.Certificate, names []string, now time.Time) bool {
	if len(uncovered(cert, names)) > 0 {
		return true
	}
	if !cert.NotAfter.Before(ca.cert.NotAfter) {
		return false // no new one would be better
	}
	return ca.wrong(now) || now.Add(renewAhead).After(cert.NotAfter)
}

// uncovered are those of the names, in normal form, that a certificate is not good for.
func uncovered(cert *x509.Certificate, names []string) []string {
	var all []string
	for _, name := range names {
		if strings.HasPrefix(name, "*.") {
			if !slices.ContainsFunc(cert.DNSNames, func(n string) bool { return strings.EqualFold(n, name) }) {
				all = append(all, name)
			}
		} else if cert.VerifyHostname(name) != nil {
			all = append(all, name)
		}
	}
	return all
}

var dnsName = regexp.MustCompile(`^(\*\.)?[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$`)

// CheckName reports why a name cannot be in a certificate.
func CheckName(name string) error {
	_, err := normalNames([]string{name})
	return err
}

// normalNames checks names and gives them in lower case, addresses in their usual form, each one once.
func normalNames(names []string) ([]string, error) {
	if len(names) == 0 || len(names) > maxNames {
		return nil, fmt.Errorf("%d names, want 1 to %d", len(names), maxNames)
	}
	var all []string
	for _, name := range names {
		normal := strings.ToLower(strings.TrimSuffix(name, "."))
		if ip := net.ParseIP(name); ip != nil {
			normal = ip.String()
		} else if len(normal) > 253 || !dnsName.MatchString(normal) {
			return nil, fmt.Errorf("name %.300q: want a DNS name in ASCII or an IP address", name)
		}
		if !slices.Contains(all, normal) {
			all = append(all, normal)
		}
	}
	return all, nil
}
