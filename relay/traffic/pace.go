package traffic

import (
	"context"
	"io"
)

// Pace holds a rate for what clients send, all of them together: what they send at one time is taken from them in turn.
type Pace struct{ shaper *shaper }

// NewPace makes a Pace of a rate in bytes per second, which is more than zero.
func NewPace(rate int64) *Pace { return &Pace{shaper: newShaper(rate, 0)} }

// Reader reads r at the client's share of the rate. The caller must call leave after the last read.
func (p *Pace) Reader(ctx context.Context, client string, r io.Reader) (paced io.Reader, leave func()) {
	in := &pacedReader{r: r, shaper: p.shaper, ctx: ctx, client: client}
	return in, func() {
		in.shaper.leave(client, nil, in.credit)
		in.credit = 0
	}
}

type pacedReader struct {
	r      io.Reader
	shaper *shaper
	ctx    context.Context //nolint:containedctx // an io.Reader is given none
	client string
	credit int64 // granted, not yet read
}

func (p *pacedReader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if p.credit == 0 {
		if err := p.shaper.take(p.ctx, p.client, nil, p.shaper.grant); err != nil {
			return 0, err
		}
		p.credit = p.shaper.grant
	}
	n, err := p.r.Read(b[:min(int64(len(b)), p.credit)])
	p.credit -= int64(n)
	return n, err
}
