package render

import (
	"context"
	"fmt"
	"runtime"
	"time"
)

// lease is the right of a rendering to touch what others share. One that has no end loses it, and goes on alone until the
// process ends: Go cannot stop it.
type lease struct{ ctx context.Context }

// check ends the goroutine of a rendering that was given up. It stands behind each call that may take for ever.
func (l lease) check() {
	if l.ctx.Err() != nil {
		runtime.Goexit()
	}
}

// timeoutError is a rendering that was given up.
type timeoutError struct{ limit time.Duration }

func (e *timeoutError) Error() string {
	return fmt.Sprintf("not rendered after %s: a template or what it includes may have no end", e.limit)
}

// AbandonedError says that too many renderings had no end.
type AbandonedError struct{ Last string }

func (e *AbandonedError) Error() string {
	return fmt.Sprintf("%d renderings had no end, the last one was %s", maxAbandoned, e.Last)
}

// guarded runs one rendering. The error is ctx's, an *AbandonedError, or nil; a rendering that panicked or took too long
// is a problem in the result.
func (s *session) guarded(what string, empty *result, run func(lease) *result) (*result, error) {
	if err := s.ctx.Err(); err != nil {
		return nil, err
	}
	if s.o.Current != nil {
		s.o.Current(what)
	}
	limit := s.o.RenderingTimeout
	if limit <= 0 {
		limit = DefaultRenderingTimeout
	}
	ctx, cancel := context.WithTimeout(s.ctx, limit)
	defer cancel()
	done := make(chan *result, 1)
	go func() { // ends with the process when the rendering has no end
		defer func() {
			if p := recover(); p != nil {
				failed := *empty
				failed.problem(failed.at, "the library panicked: %v", p)
				done <- &failed
			}
		}()
		done <- run(lease{ctx})
	}()
	select {
	case r := <-done:
		return r, nil
	case <-ctx.Done():
	}
	if err := s.ctx.Err(); err != nil {
		return nil, err
	}
	if s.abandoned++; s.abandoned >= maxAbandoned {
		return nil, &AbandonedError{what}
	}
	failed := *empty
	failed.problem(failed.at, "%v", &timeoutError{limit})
	return &failed, nil
}
