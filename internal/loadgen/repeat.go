package loadgen

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Repeat plays clients that send the same requests in turn, each client on one connection that stays open.
type Repeat struct {
	Clients  int           `json:"clients"`
	Exchange []Request     `json:"exchange"`        // what one client sends, again and again
	For      time.Duration `json:"for"`             // no exchange begins after this time; 0 means Rounds only
	Rounds   int           `json:"rounds"`          // exchanges of each client; 0 means until For is over
	Every    time.Duration `json:"every"`           // from the beginning of one exchange to that of the next; 0 at once
	Cut      bool          `json:"cut,omitempty"`   // For also ends what is under way, without an error
	Fresh    bool          `json:"fresh,omitempty"` // each exchange has a connection of its own
}

// Request is one request of an exchange.
type Request struct {
	Method  string `json:"method"`
	Path    string `json:"path"`
	Headers string `json:"headers,omitempty"` // lines, each with \r\n
	Body    []byte `json:"body,omitempty"`
	Status  int    `json:"status,omitempty"` // that is right; 0 means 200
}

func (p *Repeat) run(ctx context.Context, d *dialer, c *counter) {
	end := time.Now().Add(p.For)
	if p.Cut {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, end)
		defer cancel()
	}
	c.PerClient = make([]int64, p.Clients)
	var wg sync.WaitGroup
	for i := range p.Clients {
		wg.Go(func() {
			one := client{Repeat: p, dialer: d, number: i, bytes: &c.PerClient[i]}
			err := one.run(ctx, end)
			one.disconnect()
			if err != nil && (!p.Cut || ctx.Err() == nil) {
				c.fail(fmt.Errorf("client %d: %w", i, err))
			}
			c.add(one.requests, *one.bytes, one.durations...)
		})
	}
	wg.Wait()
}

type client struct {
	*Repeat
	*dialer
	number    int
	conn      *conn
	requests  int
	bytes     *int64
	durations []time.Duration
}

func (o *client) disconnect() {
	if o.conn != nil {
		_ = o.conn.Close() // what was read is counted
		o.conn = nil
	}
}

func (o *client) run(ctx context.Context, end time.Time) error {
	next := time.Now()
	if o.Every > 0 { // real clients do not all begin in the same moment
		next = next.Add(o.Every * time.Duration(o.number) / time.Duration(o.Clients))
	}
	for n := 0; (o.Rounds == 0 || n < o.Rounds) && (o.For == 0 || time.Now().Before(end)); n++ {
		if wait := time.Until(next); wait > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(wait):
			}
		}
		next = next.Add(o.Every)
		start := time.Now()
		if err := o.exchange(ctx); err != nil {
			return err
		}
		o.durations = append(o.durations, time.Since(start))
		if o.Fresh {
			o.disconnect()
		}
	}
	return nil
}

func (o *client) exchange(ctx context.Context) (err error) {
	if o.conn == nil {
		if o.conn, err = o.dial(ctx, o.number); err != nil {
			return err
		}
	}
	for _, r := range o.Exchange {
		status, n, err := o.conn.do(o.conn.request(r.Method, r.Path, r.Headers, r.Body), r.Method == "HEAD", nil)
		*o.bytes += n
		want := r.Status
		if want == 0 {
			want = 200
		}
		if err == nil && status != want {
			err = fmt.Errorf("status %d", status)
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", r.Method, r.Path, err)
		}
		o.requests++
	}
	return nil
}
