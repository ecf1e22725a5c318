package hooks

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	postTime     = 30 * time.Second
	refreshTime  = 2 * time.Minute // argocd-server answers when the application was looked at
	maxAnswer    = 64 << 10        // bytes read of an answer, so that its connection can be used again
	maxRedirects = 3
	maxCAFile    = 1 << 20
)

// DeliveryError says that a hook was not told. Nothing of it is secret: of what was sent and answered it has the subject
// and the status only, because answers like to quote what they refuse.
type DeliveryError struct {
	Hook    string
	Place   string // scheme and host
	Subject string // what it was told of
	Status  int    // of the answer; 0: there was none
	Reason  string

	after time.Duration // for which the answer asked to wait
	alone bool          // it says nothing about other requests to the same hook
}

func (e *DeliveryError) Error() string {
	text := fmt.Sprintf("hook %s: %s", e.Hook, e.Place)
	if e.Subject != "" {
		text += ": " + e.Subject
	}
	return text + ": " + e.Reason
}

// Test sends a hook something that changes nothing: a *DeliveryError says that it would not be heard. A Flux receiver
// cannot be tested so; it looks at its sources once more.
func Test(ctx context.Context, h Hook, o Options) error {
	if err := h.Validate(); err != nil {
		return err
	}
	probes, err := o.probes(h)
	if err != nil {
		return err
	}
	return o.send(ctx, h, probes, make(map[string]bool))
}

// send makes those requests that are not done, and marks them. When one is refused it goes on with the others, unless
// they would fare alike.
func (o Options) send(ctx context.Context, h Hook, requests []request, done map[string]bool) error {
	client, err := o.client(h)
	if err != nil {
		return &DeliveryError{Hook: h.Name, Place: h.Place(), Reason: err.Error()}
	}
	defer client.CloseIdleConnections()
	var first error
	for _, r := range requests {
		if done[r.key] {
			continue
		}
		err := sendOne(ctx, client, h, r)
		if err == nil {
			done[r.key] = true
			continue
		}
		if first == nil {
			first = err
		}
		var refused *DeliveryError
		if !errors.As(err, &refused) || !refused.alone {
			return first
		}
	}
	return first
}

func sendOne(ctx context.Context, client *http.Client, h Hook, r request) error {
	fail := &DeliveryError{Hook: h.Name, Place: h.Place(), Subject: r.subject}
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, bytes.NewReader(r.body))
	if err != nil {
		fail.Reason = "the address is not one"
		return fail
	}
	req.Header = r.header
	resp, err := client.Do(req)
	if err != nil {
		fail.Reason = reason(err, h)
		return fail
	}
	defer resp.Body.Close()                                          //nolint:errcheck // only read from
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)) // the status has said it
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return nil
	}
	fail.Status = resp.StatusCode
	fail.Reason = "the answer is " + strconv.Itoa(resp.StatusCode) + " " + http.StatusText(resp.StatusCode)
	fail.after = retryAfter(resp.Header.Get("Retry-After"))
	fail.alone = resp.StatusCode < 500 && resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusTooManyRequests
	return fail
}

// retryAfter reads seconds; a date would need two clocks that agree.
func retryAfter(value string) time.Duration {
	seconds, err := strconv.ParseUint(value, 10, 16)
	if err != nil {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, lastWait)
}

// reason says why a request had no answer, without the URL, which net/http puts into its errors.
func reason(err error, h Hook) string {
	var outer *url.Error
	for errors.As(err, &outer) {
		err = outer.Err
	}
	text := err.Error()
	if errors.Is(err, context.DeadlineExceeded) {
		text = "no answer in time"
	}
	secrets := []string{string(h.Secret), string(h.Token), string(h.URL)}
	if u, err := url.Parse(string(h.URL)); err == nil && len(u.Path) > 1 {
		secrets = append(secrets, u.RequestURI(), u.Path)
	}
	for _, s := range secrets {
		if s != "" && strings.Contains(text, s) {
			return "the request broke off"
		}
	}
	return text
}

// errRedirect is all that is said of a redirection: where to is up to the other side.
var errRedirect = errors.New("redirected elsewhere, or to another method; give the address itself")

// client makes one for a round of requests. It reads the CA file anew, so that a renewed one counts.
func (o Options) client(h Hook) (*http.Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if h.CAFile != "" {
		roots, err := readRoots(h.CAFile)
		if err != nil {
			return nil, err
		}
		config.RootCAs = roots
	}
	dial := o.dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	}
	timeout := postTime
	if h.Type == ArgoCDRefresh {
		timeout = refreshTime
	}
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			DialContext: dial, TLSClientConfig: config, TLSHandshakeTimeout: 10 * time.Second, DisableCompression: true,
			MaxResponseHeaderBytes: maxAnswer, MaxIdleConnsPerHost: 1,
		},
		// A redirection to another host would carry secrets there, and one that makes a GET of a POST says nothing.
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			first := via[0]
			if len(via) > maxRedirects || req.URL.Scheme != first.URL.Scheme || req.URL.Host != first.URL.Host || req.Method != first.Method {
				return errRedirect
			}
			return nil
		},
	}, nil
}

func readRoots(path string) (*x509.CertPool, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("caFile: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	data, err := io.ReadAll(io.LimitReader(f, maxCAFile))
	if err != nil {
		return nil, fmt.Errorf("caFile: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("caFile: %s: no certificate (PEM) in it", path)
	}
	return roots, nil
}
