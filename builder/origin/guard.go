package origin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/plimsoll/plimsoll/bundle"
)

const (
	maxRedirects = 10
	// minProgress is how many bytes an answer must bring while it is waited for during Registries.Stall: one that drips is
	// no better than one that stopped.
	minProgress = 4 << 10
	// documentTimeout is for a whole answer that is not streamed: a manifest, a token, a list.
	documentTimeout = 5 * time.Minute
)

// refusedError says that a registry, or something that plays one, wants what is not done.
type refusedError struct{ reason string }

func (e *refusedError) Error() string { return e.reason }

func refusef(format string, args ...any) error { return &refusedError{fmt.Sprintf(format, args...)} }

// errStalled is a net.Error that is a time-out, for those who ask whether it is worth trying again.
var errStalled = fmt.Errorf("the registry sent next to nothing for too long: %w", os.ErrDeadlineExceeded)

// answerLimit is the key of what a request allows for the body of its answer. Requests without one, which the
// authentication makes, get that of a manifest.
type answerLimit struct{}

// streamed is the limit of an answer that is handed on while it comes. Every other one is read whole before it is handed
// on, so that it is asked for again when it breaks off.
const streamed = -1

func withLimit(ctx context.Context, limit int64) context.Context {
	return context.WithValue(ctx, answerLimit{}, limit)
}

// guard bounds every answer in size and time, whoever asked, and decides where TLS may be missing.
type guard struct {
	next  http.RoundTripper
	plain map[string]bool // hosts
	stall time.Duration
}

func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := g.permit(req); err != nil {
		return nil, err
	}
	limit, ok := req.Context().Value(answerLimit{}).(int64)
	if !ok {
		limit = bundle.MaxManifest
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	if limit != streamed {
		timer := time.AfterFunc(documentTimeout, func() { cancel(errStalled) })
		defer timer.Stop()
	}
	resp, err := g.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		err = cause(ctx, req.Context(), err)
		cancel(nil)
		return nil, err
	}
	resp.Request = req // the next redirect asks who sent it here
	b := newBody(ctx, req.Context(), cancel, resp.Body, g.stall)
	if limit == streamed {
		resp.Body = b
		return resp, nil
	}
	data, err := io.ReadAll(io.LimitReader(b, limit+1)) // one more, so that too much is seen
	_ = b.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(data))
	return resp, nil
}

// permit refuses a request before anything of it, credentials included, is sent.
func (g *guard) permit(req *http.Request) error {
	if req.URL.Scheme != "http" {
		return nil
	}
	redirected := req.Response != nil && req.Response.Request != nil
	if redirected && req.Response.Request.URL.Scheme == "https" {
		return refusef("%s redirects from https to http://%s", req.Response.Request.URL.Host, req.URL.Host)
	}
	if redirected || isLoopback(req.URL.Hostname()) || g.plain[canonicalHost(req.URL.Host, "http")] {
		return nil
	}
	return refusef("plain HTTP to %s was not allowed", req.URL.Host)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// canonicalHost is host:port in lower case.
func canonicalHost(host, scheme string) string {
	host = strings.ToLower(host)
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	port := "443"
	if scheme == "http" {
		port = "80"
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return refusef("more than %d redirects", maxRedirects)
	}
	return nil
}

// cause gives the reason why this package ended a request, if it did.
func cause(ctx, outer context.Context, err error) error {
	if outer.Err() == nil && errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

// body cuts an answer that brings next to nothing while somebody waits for it. TCP alone waits for hours for a peer that
// is gone.
type body struct {
	ctx, outer context.Context
	cancel     context.CancelCauseFunc
	from       io.ReadCloser
	timer      *time.Timer
	stall      time.Duration
	left       time.Duration // to wait until minProgress bytes are there
	got        int           // of them
}

func newBody(ctx, outer context.Context, cancel context.CancelCauseFunc, from io.ReadCloser, stall time.Duration) *body {
	b := &body{ctx: ctx, outer: outer, cancel: cancel, from: from, stall: stall, left: stall}
	b.timer = time.AfterFunc(stall, func() { cancel(errStalled) })
	b.timer.Stop()
	return b
}

func (b *body) Read(p []byte) (int, error) {
	start := time.Now()
	b.timer.Reset(b.left)
	n, err := b.from.Read(p)
	b.timer.Stop()
	b.left -= time.Since(start)
	if b.got += n; b.got >= minProgress {
		b.left, b.got = b.stall, 0
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = cause(b.ctx, b.outer, err)
	}
	return n, err
}

func (b *body) Close() error {
	b.timer.Stop()
	err := b.from.Close()
	b.cancel(nil)
	return err
}
