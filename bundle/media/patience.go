package media

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/progress"
)

// DefaultPatience is how long a transfer goes on trying while nothing comes through.
const DefaultPatience = 5 * time.Minute

const (
	// firstContact is the patience with an address from which nothing ever came: it is more likely wrong than down.
	firstContact = 5 * time.Second
	firstPause   = 200 * time.Millisecond // doubled each time
	longestPause = 5 * time.Second
	tellAfter    = time.Second      // a break that is over before is not worth a line
	tellEvery    = 15 * time.Second // however many workers wait
)

// Patient is a further ability of a Fetcher: to say how long Resume goes on trying while nothing comes through. It is
// DefaultPatience for others.
type Patient interface {
	Patience() time.Duration
}

// GaveUpError says that the patience with a place ended.
type GaveUpError struct {
	After time.Duration // without anything that came through
	Err   error         // of the last attempt
}

func (e *GaveUpError) Error() string {
	return fmt.Sprintf("nothing came through for %s: %v", shortly(e.After), e.Err)
}

// Unwrap gives the error of the last attempt.
func (e *GaveUpError) Unwrap() error { return e.Err }

// finalError is an error of a request that was repeated already where that could help.
type finalError struct{ error }

func (e *finalError) Unwrap() error { return e.error }

// brokenError is an error of the link in the middle of an answer.
type brokenError struct{ error }

func (e *brokenError) Unwrap() error { return e.error }

// final reports whether trying again is in vain: the bytes are missing or wrong, the registry refuses, nobody waits, or
// it was tried for long enough.
func final(ctx context.Context, err error) bool {
	var damaged *bundle.DamagedError
	var refused *errcode.ErrorResponse
	var gaveUp *GaveUpError
	var last *finalError
	switch {
	case ctx.Err() != nil, errors.As(err, &gaveUp), errors.As(err, &last), errors.As(err, &damaged), errors.Is(err, fs.ErrNotExist):
		return true
	case errors.As(err, &refused):
		return !passing(refused.StatusCode)
	}
	return false
}

// passing reports whether a status speaks of the moment and not of the request.
func passing(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	}
	return status >= http.StatusInternalServerError
}

// misaddressed reports whether an error of the network comes from what was asked of whom, and not from the link.
func misaddressed(err error, reached bool) bool {
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var op *net.OpError
	var dns *net.DNSError
	switch {
	case errors.As(err, &certificate), errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return true
	case errors.As(err, &op) && op.Op == "remote error": // a TLS alert: it wants a client certificate, or another one
		return true
	case errors.As(err, &dns):
		return dns.IsNotFound && !reached // names vanish with the link
	}
	return false
}

// link is what all transfers from and to one place share of patience.
type link struct {
	name     string // of the registry, for people
	patience time.Duration
	progress progress.Func
	reached  atomic.Bool // an answer came at least once

	mu   sync.Mutex
	told time.Time
}

// wait is the waiting of one transfer between two signs of life.
type wait struct {
	link  *link
	since time.Time
	pause time.Duration
}

type sinceKey struct{}

// waitingSince tells the requests under ctx that their transfer waits already, so that the times do not add up.
func waitingSince(ctx context.Context, w *wait) context.Context {
	if w == nil {
		return ctx
	}
	return context.WithValue(ctx, sinceKey{}, w.since)
}

func (l *link) begin(ctx context.Context) *wait {
	since, ok := ctx.Value(sinceKey{}).(time.Time)
	if !ok {
		since = time.Now()
	}
	return &wait{link: l, since: since, pause: firstPause}
}

// next pauses before another attempt, at least as long as the registry asks for. It fails with *GaveUpError when there
// shall be none.
func (w *wait) next(ctx context.Context, cause error, atLeast time.Duration) error {
	patience := w.link.patience
	if !w.link.reached.Load() {
		patience = min(patience, firstContact)
	}
	waited := time.Since(w.since)
	left := patience - waited
	if left <= 0 {
		return &GaveUpError{After: waited, Err: cause}
	}
	if atLeast > left {
		return &GaveUpError{After: waited, Err: fmt.Errorf("%w; it asks to wait for %s", cause, shortly(atLeast))}
	}
	pause := min(max(w.pause, atLeast), left)
	w.pause = min(2*w.pause, longestPause)
	if waited+pause >= tellAfter {
		w.link.tell(cause, left)
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (l *link) tell(cause error, left time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if !l.told.IsZero() && now.Sub(l.told) < tellEvery {
		return
	}
	l.told = now
	what := "link is down"
	var busy *errcode.ErrorResponse
	if errors.As(cause, &busy) {
		what = fmt.Sprintf("registry is busy (%d)", busy.StatusCode)
	}
	l.progress.Report(progress.Event{Stage: "wait", Name: l.name, Note: what + ", trying again for another " + shortly(left)})
}

// shortly writes a duration for people: 4m, 1m30s.
func shortly(d time.Duration) string {
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	text := d.Round(time.Second).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	return text
}

// maxRetryAfter bounds what a registry may ask for, before any arithmetic.
const maxRetryAfter = 24 * time.Hour

// retryAfter is how long a registry asks to wait (RFC 9110, 10.2.3).
func retryAfter(resp *http.Response) time.Duration {
	if resp == nil || resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return 0
	}
	header := resp.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(header, 10, 32); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	if at, err := http.ParseTime(header); err == nil {
		return min(max(time.Until(at), 0), maxRetryAfter)
	}
	return 0
}
