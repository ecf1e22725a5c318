package origin

import (
	"context"
	"errors"
	"io"
	"time"
)

// resumeAttempts is how often in a row a blob is asked for again without a single byte gained.
const resumeAttempts = 5

// resuming reads a blob over as many connections as it takes.
type resuming struct {
	ctx  context.Context
	open func(offset int64) (io.ReadCloser, error)
	body io.ReadCloser // nil after a broken connection
	done int64         // bytes given
	size int64         // bytes declared
	idle int           // attempts since the last byte
}

func (r *resuming) Read(p []byte) (int, error) {
	for {
		if r.body != nil {
			n, err := r.body.Read(p)
			r.done += int64(n)
			if n > 0 {
				r.idle = 0
			}
			switch {
			case err == nil, errors.Is(err, io.EOF) && r.done >= r.size:
				return n, err
			case n > 0:
				r.drop()
				return n, nil
			}
			r.drop()
			if !r.again() {
				return 0, err
			}
		}
		if err := r.wait(); err != nil {
			return 0, err
		}
		body, err := r.open(r.done)
		if err != nil {
			if !r.again() {
				return 0, err
			}
			continue
		}
		r.body = body
	}
}

func (r *resuming) drop() {
	// What broke the connection was already told by Read; closing it again can only repeat that.
	r.body.Close() //nolint:errcheck
	r.body = nil
}

func (r *resuming) again() bool {
	r.idle++
	return r.idle <= resumeAttempts && r.ctx.Err() == nil
}

// wait backs off 0, 1, 2, 4, 8 s.
func (r *resuming) wait() error {
	if r.idle < 2 {
		return r.ctx.Err()
	}
	timer := time.NewTimer(time.Second << (r.idle - 2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}

func (r *resuming) Close() error {
	if r.body == nil {
		return nil
	}
	return r.body.Close()
}
