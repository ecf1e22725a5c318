package origin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	firstPause   = 100 * time.Millisecond // doubled each time
	longestPause = 10 * time.Second       // unless the registry asks for more
	// firstContact is the patience with an address from which nothing ever came: it is more likely wrong than away.
	firstContact = 10 * time.Second
)

// repeater sends a request again when its failure may pass: a registry that is away for some seconds does not end a build.
// It stands below authentication, so that tokens are asked for with the same patience.
type repeater struct {
	next     http.RoundTripper
	patience time.Duration
	answered sync.Map // hosts that did, as keys; those of registries and of what they redirect to
}

func (t *repeater) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	var failed time.Time // first
	pause := firstPause
	for attempt := 1; ; attempt++ {
		resp, err := t.next.RoundTrip(req)
		patience := t.patience
		if err == nil {
			t.answered.Store(req.URL.Host, nil)
		} else if _, ok := t.answered.Load(req.URL.Host); !ok {
			patience = min(patience, firstContact)
		}
		asked, passing := passing(resp, err)
		if !passing || ctx.Err() != nil || t.patience <= 0 {
			return resp, err
		}
		if failed.IsZero() {
			failed = time.Now()
		}
		left := patience - time.Since(failed)
		wait := max(asked, min(pause/2+rand.N(pause), left)) // many builds that failed together come back one by one
		if left <= 0 || wait > left || req.Body != nil && req.GetBody == nil {
			if err != nil {
				err = fmt.Errorf("given up after %d attempts: %w", attempt, err)
			}
			return resp, err
		}
		if resp != nil {
			_ = resp.Body.Close() // nothing is wanted of it
		}
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
		if req.GetBody != nil {
			req = req.Clone(ctx)
			if req.Body, err = req.GetBody(); err != nil {
				return nil, err
			}
		}
		pause = min(2*pause, longestPause)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// passing reports whether the same request may succeed later, and how long the registry asks to wait.
func passing(resp *http.Response, err error) (time.Duration, bool) {
	if err != nil {
		return 0, passingError(err)
	}
	switch resp.StatusCode {
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return 0, false
	case http.StatusTooManyRequests, http.StatusRequestTimeout:
	default:
		if resp.StatusCode < http.StatusInternalServerError {
			return 0, false
		}
	}
	return retryAfter(resp.Header.Get("Retry-After")), true
}

// retryAfter reads seconds or a date (RFC 9110, 10.2.3); what it does not understand is no wish.
func retryAfter(header string) time.Duration {
	if seconds, err := strconv.ParseUint(header, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// passingError tells errors of the connection from those of the request, the certificate or the answer.
func passingError(err error) bool {
	var refused *refusedError
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var op *net.OpError
	var dns *net.DNSError
	var network net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return false
	case errors.As(err, &refused), errors.As(err, &certificate), errors.As(err, &record),
		errors.Is(err, http.ErrSchemeMismatch):
		return false
	case errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"): // TLS: a certificate that is missing
		return false
	case errors.As(err, &dns):
		return !dns.IsNotFound
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &network):
		return true
	}
	// net/http does not export these.
	text := err.Error()
	return strings.Contains(text, "http2: ") || strings.Contains(text, "server closed idle connection")
}
