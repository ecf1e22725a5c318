package access

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Wrong answers come later and later; nothing else does.
func TestWrongCredentialsAreSlowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		w := newWorld(t, GuardOptions{Log: slog.New(slog.NewTextHandler(&log, nil))})
		took := func(authorization, address string) time.Duration {
			r := request(authorization)
			r.RemoteAddr = address
			begin := time.Now()
			w.guard.Identify(r) //nolint:errcheck // only how long it takes
			return time.Since(begin)
		}
		guess := 0
		wrong := func(address string) time.Duration {
			if guess++; guess == 1 {
				return took(basic("anna:guess 1"), address)
			}
			return took(fmt.Sprintf("Bearer guess%d", guess), address)
		}
		for i, want := range []time.Duration{firstDelay, 2 * firstDelay, 4 * firstDelay, 8 * firstDelay, 16 * firstDelay, 32 * firstDelay, maxDelay, maxDelay} {
			if got := wrong("10.0.0.1:1000"); got != want {
				t.Errorf("guess %d: answered after %v, want %v", i+1, got, want)
			}
		}
		for _, right := range []string{basic("anna:" + chosen), basic("agv-1:" + w.generated), "Bearer " + w.token} {
			if got := took(right, "10.0.0.1:1000"); got != 0 {
				t.Errorf("right credentials from a guesser's address: after %v", got)
			}
		}
		if got := took("Bearer abc", "10.0.0.1:1000"); got != maxDelay {
			t.Errorf("a wrong token: after %v", got)
		}
		if got := wrong("10.0.0.2:1000"); got != firstDelay {
			t.Errorf("a first error from another address: after %v", got)
		}
		if got := wrong("[::ffff:10.0.0.2]:1000"); got != 2*firstDelay {
			t.Errorf("the same address as IPv6: after %v", got)
		}
		if got := wrong("[fd00::1]:1"); got != firstDelay {
			t.Errorf("IPv6: after %v", got)
		}
		if got := wrong("[fd00::ffff:1%eth0]:1"); got != 2*firstDelay {
			t.Errorf("another address of the same host: after %v", got)
		}
		if got := wrong("@"); got != firstDelay {
			t.Errorf("no address: after %v", got)
		}

		if text := log.String(); strings.Count(text, "10.0.0.1") != 1 || !strings.Contains(text, "a wrong password for anna") || strings.Contains(text, "guess 1") {
			t.Errorf("log:\n%s", text)
		}
		time.Sleep(burst + time.Second)
		if got := wrong("10.0.0.1:1000"); got != firstDelay {
			t.Errorf("after a while: after %v", got)
		}
		if text := log.String(); strings.Count(text, "10.0.0.1 ") != 2 {
			t.Errorf("log:\n%s", text)
		}
	})
}

// Two hundred guesses at once from one address: a right password from the same address is let in before most of them have
// their answer, and those held back stay bounded.
func TestGuessersDoNotLockOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, GuardOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for i := range 200 {
			all.Go(func() {
				if _, err := w.guard.Identify(request("Bearer guess" + fmt.Sprint(i)).WithContext(ctx)); err == nil {
					t.Error("a guess was right")
				}
			})
		}
		synctest.Wait() // all guesses are verified; their answers are held back
		if n := w.guard.Stats().Delayed; n != maxDelayedFrom {
			t.Errorf("%d answers are held back, want %d", n, maxDelayedFrom)
		}
		begin := time.Now()
		if _, err := w.guard.Identify(request(basic("anna:" + chosen))); err != nil || time.Since(begin) != 0 {
			t.Errorf("a right password: %v, after %v", err, time.Since(begin))
		}
		cancel() // clients that went away are not waited for
		all.Wait()
		if s := w.guard.Stats(); s.Delayed != 0 || s.Wrong != 200 || time.Since(begin) != 0 {
			t.Errorf("%+v after %v", s, time.Since(begin))
		}
	})
}

// Credentials that are nobody's cost nothing where reading is free, but whoever tries to push with them is slowed.
func TestForeignCredentialsAreSlowedWhenTheyMatter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, GuardOptions{Anonymous: true})
		begin := time.Now()
		r := request("Bearer abc")
		id, err := w.guard.Identify(r)
		if err != nil || time.Since(begin) != 0 {
			t.Errorf("reading: %v after %v", err, time.Since(begin))
		}
		if err := w.guard.Require(r, id, RoleOperator); err == nil || time.Since(begin) != firstDelay || w.guard.Stats().Wrong != 1 {
			t.Errorf("pushing: %v after %v, %+v", err, time.Since(begin), w.guard.Stats())
		}
	})
}

func TestGuessersAreForgotten(t *testing.T) {
	g, now := newGuessers(), day()
	addr := netip.MustParseAddr("10.0.0.0")
	for range 100_000 {
		_, _, done := g.wrong(addr, now)
		done()
		addr = addr.Next()
	}
	if len(g.by) != maxGuessers || g.recent.Len() != maxGuessers || g.waiting() != 0 {
		t.Errorf("%d addresses, %d of them in order, %d waiting", len(g.by), g.recent.Len(), g.waiting())
	}
	if count, _, _ := g.wrong(addr.Prev(), now); count != 2 {
		t.Errorf("the last one was forgotten: %d", count)
	}
	var held int
	for range 2 * maxDelayed {
		addr = addr.Next()
		if _, delay, _ := g.wrong(addr, now); delay > 0 {
			held++
		}
	}
	if held != maxDelayed-1 { // one is held above
		t.Errorf("%d answers are held back", held)
	}
}

func TestWrongOnesAreBounded(t *testing.T) {
	var w wrongOnes
	p := newPasswords()
	for i := range 3 * maxWrong {
		m := p.mac("anna", fmt.Sprint(i))
		w.add(m)
		w.add(m)
		if !w.has(m) {
			t.Fatalf("%d is forgotten at once", i)
		}
	}
	if len(w.set) != maxWrong || len(w.ring) != maxWrong || w.has(p.mac("anna", "0")) {
		t.Errorf("%d and %d remembered", len(w.set), len(w.ring))
	}
}
