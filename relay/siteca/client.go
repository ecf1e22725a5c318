package siteca

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"time"
)

// ClientLife is how long a robot's certificate is good for when nothing else is said. It is long, because a robot that
// was in a shed for years must come back; what ends a certificate early is its removal from the robot's account.
const ClientLife = 10 * 365 * 24 * time.Hour

// Client is a client certificate with its key, which nobody else has.
type Client struct {
	Certificate *x509.Certificate
	CertPEM     []byte
	KeyPEM      []byte // PKCS #8, not encrypted
}

// Client issues a certificate by which a client proves that it is the one of a name, its CommonName. It does not outlive
// the authority; with a clock that is wrong it lives as long as that.
func (ca *CA) Client(name string, life time.Duration, now time.Time) (*Client, error) {
	if name == "" || name != commonName(name) || life <= 0 {
		return nil, fmt.Errorf("client certificate of %.80q for %s: want a name of at most 64 bytes and a time", name, life)
	}
	cert, key, err := ca.issue(&x509.Certificate{
		Subject:     pkix.Name{Organization: []string{"Plimsoll"}, CommonName: name},
		NotBefore:   notBefore(),
		NotAfter:    ca.end(now, life),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, fmt.Errorf("client certificate of %s: %w", name, err)
	}
	private, err := keyPEM(key)
	if err != nil {
		return nil, fmt.Errorf("client certificate of %s: %w", name, err)
	}
	return &Client{Certificate: cert, CertPEM: certPEM(cert), KeyPEM: private}, nil
}
