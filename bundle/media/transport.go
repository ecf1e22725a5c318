package media

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// transport sends requests over a link that breaks, is slow and is shared. What can be sent again is repeated with
// patience, a request or an answer that stands still is cut, and the bytes of all requests together keep to a rate.
type transport struct {
	next   http.RoundTripper
	link   *link
	bucket *rate.Limiter // nil for no limit
	stall  time.Duration
}

// newBucket allows bytes a second. It holds a twentieth of a second's bytes, so that any second keeps within 5 percent.
func newBucket(perSecond int64) *rate.Limiter {
	if perSecond <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(perSecond), int(min(max(perSecond/20, 1), 1<<30)))
}

type onceKey struct{} // marks the context of requests that their sender repeats, in another manner

// RoundTrip fails with *GaveUpError at the end of its patience.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	w := t.link.begin(req.Context())
	for try := req; ; {
		resp, err := t.send(try)
		if err == nil {
			t.link.reached.Store(true)
		}
		var cause error
		switch {
		case req.Context().Value(onceKey{}) != nil, hasBody(req) && req.GetBody == nil, req.Context().Err() != nil:
			return resp, err
		case err != nil && misaddressed(err, t.link.reached.Load()):
			return nil, &finalError{err}
		case err != nil:
			cause = err
		case !passing(resp.StatusCode):
			return resp, nil
		default:
			// An error in closing matters no more than the answer does.
			cause = errors.Join(responseError(resp), resp.Body.Close())
		}
		if err := w.next(req.Context(), cause, retryAfter(resp)); err != nil {
			return nil, err
		}
		if try, err = again(req); err != nil {
			return nil, err
		}
	}
}

// CloseIdleConnections is what http.Client asks its transport for.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func hasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

func again(req *http.Request) (*http.Request, error) {
	if !hasBody(req) {
		return req, nil
	}
	body, err := req.GetBody()
	if err != nil {
		return nil, fmt.Errorf("send again: %w", err)
	}
	try := req.WithContext(req.Context())
	try.Body = body
	return try, nil
}

// send is one attempt under watch.
func (t *transport) send(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	answer := t.stall
	if req.Method == http.MethodPut {
		answer = max(answer, headerTimeout) // it ends with the registry hashing or moving what came
	}
	w := &watch{ctx: ctx, cancel: cancel, bucket: t.bucket}
	w.timer = time.AfterFunc(answer, func() { cancel(errStalled) })
	out := req.WithContext(ctx)
	if hasBody(req) {
		out.Body = &watchedRequest{body: req.Body, watch: w, stall: t.stall, answer: answer}
		w.start(t.stall)
	}
	resp, err := t.next.RoundTrip(out)
	w.answered()
	if err != nil {
		err = w.explain(err)
		cancel(nil)
		return nil, err
	}
	// The context ends the answer when it stalls, so it lives as long as the body.
	resp.Body = &watchedAnswer{body: resp.Body, watch: w, stall: t.stall}
	return resp, nil
}

// errStalled is a net.Error that is a time-out.
var errStalled = fmt.Errorf("the registry took or sent nothing for too long: %w", os.ErrDeadlineExceeded)

// watch cuts a request that stands still. TCP alone waits for hours for a peer that is gone.
type watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	bucket *rate.Limiter

	mu    sync.Mutex
	timer *time.Timer
	done  bool // the header of the answer is there
}

func (w *watch) start(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.done {
		w.timer.Reset(d)
	}
}

func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
}

func (w *watch) answered() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
	w.done = true
}

func (w *watch) explain(err error) error {
	if errors.Is(context.Cause(w.ctx), errStalled) {
		return errStalled
	}
	return err
}

// some is how much may be moved at once.
func (w *watch) some(p []byte) []byte {
	if w.bucket != nil && len(p) > w.bucket.Burst() {
		return p[:w.bucket.Burst()]
	}
	return p
}

// pay waits until n bytes may pass.
func (w *watch) pay(n int) error {
	if w.bucket == nil || n <= 0 {
		return nil
	}
	return w.bucket.WaitN(w.ctx, n)
}

// watchedRequest is a body that is sent. Only the time between two reads is the registry's.
type watchedRequest struct {
	body          io.ReadCloser
	watch         *watch
	stall, answer time.Duration
}

func (b *watchedRequest) Read(p []byte) (int, error) {
	b.watch.stop()
	n, err := b.body.Read(b.watch.some(p))
	if perr := b.watch.pay(n); perr != nil && err == nil {
		err = perr
	}
	if err != nil {
		b.watch.start(b.answer)
	} else {
		b.watch.start(b.stall)
	}
	return n, err
}

func (b *watchedRequest) Close() error { return b.body.Close() }

// watchedAnswer is a body that is received. It is cut when it brings nothing while somebody waits for it.
type watchedAnswer struct {
	body  io.ReadCloser
	watch *watch
	stall time.Duration
	timer *time.Timer
}

func (b *watchedAnswer) Read(p []byte) (int, error) {
	if b.timer == nil {
		b.timer = time.AfterFunc(b.stall, func() { b.watch.cancel(errStalled) })
	} else {
		b.timer.Reset(b.stall)
	}
	n, err := b.body.Read(b.watch.some(p))
	b.timer.Stop()
	if err != nil && !errors.Is(err, io.EOF) {
		err = &brokenError{b.watch.explain(err)}
	}
	if perr := b.watch.pay(n); perr != nil && err == nil {
		err = perr
	}
	return n, err
}

func (b *watchedAnswer) Close() error {
	if b.timer != nil {
		b.timer.Stop()
	}
	b.watch.cancel(nil)
	return b.body.Close()
}
