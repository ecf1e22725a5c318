// Package loadgen plays many robots against one server, for measurements: it speaks HTTP/1.1 on plain sockets, throws
// away what it receives, and costs so little that the server is what is measured.
//
// It is built into a program of its own (internal/loadgen/loadgen), so that its memory and its CPU time are the same
// whoever answers. Work is described by a Plan and counted in a Result; both travel as JSON.
package loadgen

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// Plan says what to do. One of Pull and Repeat is set.
type Plan struct {
	Address string  `json:"address"`           // host:port, an IP address
	CAFile  string  `json:"caFile,omitempty"`  // PEM; TLS when not empty
	Pull    *Pull   `json:"pull,omitempty"`    // robots that pull an image
	Repeat  *Repeat `json:"repeat,omitempty"`  // requests again and again
	Headers string  `json:"headers,omitempty"` // more header lines of each request, each with \r\n
}

// Result counts what happened. Durations are sorted.
type Result struct {
	Requests  int             `json:"requests"`
	Bytes     int64           `json:"bytes"` // of bodies
	Wall      time.Duration   `json:"wall"`
	CPU       time.Duration   `json:"cpu"`       // of the load generator's process
	Durations []time.Duration `json:"durations"` // of robots, or of requests
	Errors    int             `json:"errors"`
	First     string          `json:"first,omitempty"`     // of the errors
	PerClient []int64         `json:"perClient,omitempty"` // bytes, of Repeat
}

// Percentile gives the duration below which p of 100 durations lie, 0 when there are none.
func (r *Result) Percentile(p int) time.Duration {
	if len(r.Durations) == 0 {
		return 0
	}
	return r.Durations[min(len(r.Durations)*p/100, len(r.Durations)-1)]
}

// Rate is bytes per second.
func (r *Result) Rate() float64 { return float64(r.Bytes) / r.Wall.Seconds() }

// Run does what the plan says. An error means that the plan cannot be done at all; requests that fail are counted.
func Run(ctx context.Context, plan Plan) (*Result, error) {
	switch {
	case (plan.Pull == nil) == (plan.Repeat == nil):
		return nil, errors.New("plan: one of pull and repeat must be set")
	case plan.Repeat != nil && plan.Repeat.For <= 0 && plan.Repeat.Rounds <= 0:
		return nil, errors.New("plan: repeat has no end")
	}
	d := &dialer{address: plan.Address, headers: plan.Headers}
	if plan.CAFile != "" {
		pem, err := os.ReadFile(plan.CAFile)
		if err != nil {
			return nil, fmt.Errorf("plan: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("plan: %s: no certificate in it", plan.CAFile)
		}
		d.tls = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}
	}
	c := &counter{}
	start, cpu := time.Now(), cpuTime()
	if plan.Pull != nil {
		plan.Pull.run(ctx, d, c)
	} else {
		plan.Repeat.run(ctx, d, c)
	}
	c.Wall, c.CPU = time.Since(start), cpuTime()-cpu
	slices.Sort(c.Durations)
	return &c.Result, nil
}

// counter adds up what many goroutines did.
type counter struct {
	mu sync.Mutex
	Result
}

func (c *counter) add(requests int, bytes int64, took ...time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Requests += requests
	c.Bytes += bytes
	c.Durations = append(c.Durations, took...)
}

func (c *counter) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Errors++; c.First == "" {
		c.First = err.Error()
	}
}
