package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
)

const (
	// stallTimeout is how long a transfer may stand still; a cable that was pulled says nothing.
	stallTimeout = time.Minute
	// answerTimeout is how long S3 may take to begin an answer: putting the parts of a large blob together is slow.
	answerTimeout = 5 * time.Minute
	dialTimeout   = 15 * time.Second
	// maxAnswer bounds every answer that is not a blob, in bytes: a page of a listing has 1000 keys.
	maxAnswer = 8 << 20
	// maxCAFile bounds the file of certificate authorities, in bytes.
	maxCAFile = 4 << 20
	// idleConnections is how many connections wait for the next robot.
	idleConnections = 64
	// writePiece is what must get out within stallTimeout, in bytes.
	writePiece = 64 << 10
)

// httpClient is the SDK's client with bounds. base carries what AWS_CA_BUNDLE says.
func httpClient(base *awshttp.BuildableClient, caFile string, stall time.Duration) (*boundedClient, error) {
	var roots *x509.CertPool
	if caFile != "" {
		var err error
		if roots, err = readCAFile(caFile); err != nil {
			return nil, err
		}
	}
	client := base.WithTransportOptions(func(t *http.Transport) {
		dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}
		t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &stallConn{Conn: conn, stall: stall}, nil
		}
		t.ResponseHeaderTimeout = answerTimeout
		t.MaxIdleConnsPerHost = idleConnections
		t.DisableCompression = true // a blob's bytes are what they are
		if roots != nil {
			if t.TLSClientConfig == nil {
				t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
			}
			t.TLSClientConfig.RootCAs = roots
		}
	})
	return &boundedClient{client}, nil
}

func readCAFile(name string) (*x509.CertPool, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("ca-file: %w", err)
	}
	pem, err := io.ReadAll(io.LimitReader(f, maxCAFile+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("ca-file %s: %w", name, err)
	}
	roots := x509.NewCertPool()
	if len(pem) > maxCAFile || !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca-file %s: no certificate in PEM in it, or more than %d bytes", name, maxCAFile)
	}
	return roots, nil
}

// blobKey marks the context of a request whose answer is a blob.
type blobKey struct{}

// boundedClient ends answers that are not blobs at maxAnswer: the SDK reads them into memory.
type boundedClient struct {
	next interface {
		Do(*http.Request) (*http.Response, error)
	}
}

func (c *boundedClient) Do(r *http.Request) (*http.Response, error) {
	res, err := c.next.Do(r)
	if err == nil && (r.Context().Value(blobKey{}) == nil || res.StatusCode >= 300) {
		res.Body = &boundedBody{res.Body, maxAnswer}
	}
	return res, err
}

type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		// Only a byte more shows that the answer is too long: one of just this length ends here.
		var probe [1]byte
		if n, err := b.ReadCloser.Read(probe[:]); n == 0 {
			return 0, err
		}
		return 0, fmt.Errorf("an answer of more than %d bytes", maxAnswer)
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// stallConn gives up on a peer that takes no bytes. Reads are watched by blobBody: a connection may be idle.
type stallConn struct {
	net.Conn
	stall time.Duration
}

func (c *stallConn) Write(p []byte) (int, error) {
	done := 0
	for {
		if err := c.SetWriteDeadline(time.Now().Add(c.stall)); err != nil {
			return done, err
		}
		n, err := c.Conn.Write(p[done:min(len(p), done+writePiece)])
		done += n
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return done, ErrStalled
		}
		if err != nil || done == len(p) {
			return done, err
		}
	}
}

// blobBody is the body of a blob of known length. It ends the request when nothing comes.
type blobBody struct {
	body   io.ReadCloser
	left   int64 // bytes that must still come
	stall  time.Duration
	cancel context.CancelCauseFunc // of the request
	timer  *time.Timer             // calls cancel
	fail   func(error) error
}

func (b *blobBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	b.timer.Reset(b.stall)
	n, err := b.body.Read(p[:min(int64(len(p)), b.left)])
	b.timer.Stop()
	b.left -= int64(n)
	switch {
	case b.left == 0:
		return n, nil
	case errors.Is(err, io.EOF):
		return n, b.fail(io.ErrUnexpectedEOF)
	case err != nil:
		return n, b.fail(err)
	}
	return n, nil
}

func (b *blobBody) Close() error {
	b.cancel(nil)
	return b.body.Close()
}
