package chartrepo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Limits of requests.
const (
	maxAttempts      = 4
	maxRedirects     = 5
	maxPause         = 30 * time.Second // also of what a server asks for
	maxSilence       = time.Minute      // of a server in an answer or before it
	defaultPause     = time.Second
	defaultUserAgent = "plimsoll"
)

// StatusError is an answer that is not the file. It is fs.ErrNotExist when the server says that there is none.
type StatusError struct {
	URL    string // without its query, which may be a secret
	Status int
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("GET %s: %d %s", e.URL, e.Status, http.StatusText(e.Status))
}

// Is makes errors.Is(err, fs.ErrNotExist) work.
func (e *StatusError) Is(target error) bool {
	return target == fs.ErrNotExist && (e.Status == http.StatusNotFound || e.Status == http.StatusGone)
}

type request struct {
	url        *url.URL
	repository *url.URL // to whose host credentials may go
	limit      int64    // of bytes
}

// get reads a file whole, and again from its beginning when the link breaks or the server is unwell.
func (c *Client) get(ctx context.Context, r request) ([]byte, http.Header, error) {
	target, err := c.mirrored(r.url)
	if err != nil {
		return nil, nil, err
	}
	home, err := c.mirrored(r.repository)
	if err != nil {
		return nil, nil, err
	}
	auth, err := c.authorization(ctx, home)
	if err != nil {
		return nil, nil, err
	}
	pause := cmp.Or(c.Pause, defaultPause)
	for attempt := 1; ; attempt++ {
		data, header, err := c.try(ctx, target, home, auth, r.limit)
		again, after := worthwhile(err)
		if err == nil || !again || ctx.Err() != nil {
			return data, header, err
		}
		if attempt == maxAttempts {
			return nil, nil, fmt.Errorf("%w (%d attempts)", err, attempt)
		}
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(min(max(pause, after), maxPause)):
		}
		pause *= 2
	}
}

// mirrored is where to ask for a URL.
func (c *Client) mirrored(u *url.URL) (*url.URL, error) {
	address, ok := c.Mirrors[u.Host]
	if !ok {
		return u, nil
	}
	base, err := url.Parse(address)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fmt.Errorf("mirror of %s: %q: want http://host[:port][/prefix] or https://…", u.Host, address)
	}
	m := base.JoinPath(u.EscapedPath())
	m.RawQuery = u.RawQuery
	return m, nil
}

// host is the name by which the keychain knows a host.
type host string

func (h host) String() string      { return string(h) }
func (h host) RegistryStr() string { return string(h) }

// authorization is the header for a repository's host, or "".
func (c *Client) authorization(ctx context.Context, home *url.URL) (string, error) {
	keychain, _, _ := c.settings()
	auth, err := authn.Resolve(ctx, keychain, host(home.Host))
	if err != nil {
		return "", fmt.Errorf("credentials for %s: %w", home.Host, err)
	}
	config, err := authn.Authorization(ctx, auth)
	if err != nil {
		return "", fmt.Errorf("credentials for %s: %w", home.Host, err)
	}
	switch {
	case config.Username != "" || config.Password != "":
		r := http.Request{Header: make(http.Header)}
		r.SetBasicAuth(config.Username, config.Password)
		return r.Header.Get("Authorization"), nil
	case config.RegistryToken != "":
		return "Bearer " + config.RegistryToken, nil
	}
	return "", nil
}

// retryError is an error after which the same request may succeed.
type retryError struct {
	error
	after time.Duration // as the server asks
}

func (e *retryError) Unwrap() error { return e.error }

func worthwhile(err error) (again bool, after time.Duration) {
	var retry *retryError
	if errors.As(err, &retry) {
		return true, retry.after
	}
	return false, 0
}

var (
	errRedirect = errors.New("redirect")
	errSilence  = fmt.Errorf("no byte for %s", maxSilence)
)

// try asks once.
func (c *Client) try(ctx context.Context, target, home *url.URL, auth string, limit int64) ([]byte, http.Header, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(maxSilence, func() { cancel(errSilence) })
	defer silence.Stop()

	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, nil, err
	}
	setHeaders := func(req *http.Request) {
		// Go's own rule lets credentials follow a redirect to a subdomain and to another port.
		req.Header.Del("Authorization")
		req.Header.Del("Referer") // it would have the query of the URL before
		if auth != "" && req.URL.Scheme == home.Scheme && req.URL.Host == home.Host {
			req.Header.Set("Authorization", auth)
		}
	}
	_, way, userAgent := c.settings()
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Accept-Encoding", "identity") // else Go would unpack a .tgz that is sent as encoded content
	setHeaders(req)
	client := &http.Client{Transport: way, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return fmt.Errorf("%w: more than %d", errRedirect, maxRedirects)
		}
		if s := req.URL.Scheme; s != "https" && (s != "http" || via[len(via)-1].URL.Scheme == "https") {
			return fmt.Errorf("%w from %s to %s", errRedirect, via[len(via)-1].URL.Scheme, shownURL(req.URL))
		}
		setHeaders(req)
		return nil
	}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, broken(ctx, target, err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end, or given up
	if resp.StatusCode != http.StatusOK {
		return nil, nil, refused(target, resp)
	}
	data, err := read(resp, limit, func() { silence.Reset(maxSilence) })
	if errors.Is(err, errLimit) {
		return nil, nil, fmt.Errorf("GET %s: %w", shownURL(target), err)
	}
	if err != nil {
		return nil, nil, broken(ctx, target, err)
	}
	return data, resp.Header, nil
}

// broken judges an error of the connection.
func broken(ctx context.Context, target *url.URL, err error) error {
	var urlErr *url.Error
	if errors.As(err, &urlErr) {
		err = urlErr.Err // it begins with the URL and its query
	}
	silent := errors.Is(context.Cause(ctx), errSilence)
	if silent {
		err = errSilence
	}
	err = fmt.Errorf("GET %s: %w", shownURL(target), err)
	var certificate *tls.CertificateVerificationError
	var dns *net.DNSError
	switch {
	case !silent && ctx.Err() != nil, errors.Is(err, errRedirect), errors.As(err, &certificate),
		errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &dns) && dns.IsNotFound:
		return err
	}
	return &retryError{error: err}
}

func refused(target *url.URL, resp *http.Response) error {
	err := &StatusError{URL: shownURL(target), Status: resp.StatusCode}
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode < 500 {
		return err
	}
	retry := &retryError{error: err}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		retry.after = time.Duration(min(seconds, int(maxPause/time.Second))) * time.Second
	}
	return retry
}

var errLimit = errors.New("too large")

// read reads the body up to limit; progress is called for each piece.
func read(resp *http.Response, limit int64, progress func()) ([]byte, error) {
	if resp.ContentLength > limit {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", errLimit, resp.ContentLength, limit)
	}
	var data bytes.Buffer
	if resp.ContentLength > 0 {
		// What is only announced is not yet there: memory grows with what comes.
		data.Grow(int(min(resp.ContentLength, 1<<20)))
	}
	n, err := io.Copy(&data, io.LimitReader(&watched{resp.Body, progress}, limit+1))
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", errLimit, limit)
	}
	return data.Bytes(), nil
}

type watched struct {
	io.Reader
	progress func()
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if n > 0 {
		w.progress()
	}
	return n, err
}

// shownURL is a URL without its query.
func shownURL(u *url.URL) string {
	return visible(strings.TrimSuffix((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String(), "?"))
}
