package gitmirror

import (
	"context"
	"errors"
	"sync/atomic"
)

// gate lets a bounded number of requests work at a time and a bounded number wait, first come, first served.
type gate struct {
	slots   chan struct{}
	waiting atomic.Int64
	maxWait int64
}

var errQueueFull = errors.New("too many clients are waiting")

func newGate(slots, maxWait int) *gate {
	return &gate{slots: make(chan struct{}, slots), maxWait: int64(maxWait)}
}

// enter waits for a slot. The error is ctx's or errQueueFull.
func (g *gate) enter(ctx context.Context) (leave func(), err error) {
	leave = func() { <-g.slots }
	select {
	case g.slots <- struct{}{}:
		return leave, nil
	default:
	}
	defer g.waiting.Add(-1)
	if g.waiting.Add(1) > g.maxWait {
		return nil, errQueueFull
	}
	select {
	case g.slots <- struct{}{}:
		return leave, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
