package state

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/plimsoll/plimsoll/registry/store"
)

// fakeRelay is a relay with a folder and a way to the bucket of its own.
type fakeRelay struct {
	*bucket
	link *link
}

func newRelay(t *testing.T, m *memory) *fakeRelay {
	t.Helper()
	l := &link{memory: m}
	return &fakeRelay{Bucket(l, BucketOptions{Dir: t.TempDir(), Fenced: []string{"active.json"}}).(*bucket), l}
}

// again is a new process of the same relay.
func (r *fakeRelay) again() *fakeRelay {
	return &fakeRelay{Bucket(r.link, r.options).(*bucket), r.link}
}

// die ends what the kernel ends with a process.
func (l *lease) die(t *testing.T) {
	t.Helper()
	l.end()
	if err := l.here.Unlock(); err != nil {
		t.Error(err)
	}
}

func (r *fakeRelay) mustLock(t *testing.T) *lease {
	t.Helper()
	lock, err := r.Lock(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return lock.(*lease)
}

func mustUnlock(t *testing.T, l Lock) {
	t.Helper()
	if err := l.Unlock(); err != nil {
		t.Error(err)
	}
}

// A lease that is renewed is kept, however long the holder works.
func TestLeaseIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		a, b := newRelay(t, m), newRelay(t, m)
		held := a.mustLock(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		waits := 0
		if _, err := b.Lock(ctx, func() { waits++ }); !errors.Is(err, context.DeadlineExceeded) || waits != 1 {
			t.Errorf("%v after %d notices; want to wait all the time, and be told once", err, waits)
		}
		if err := errors.Join(held.Held(), a.Held()); err != nil {
			t.Error(err)
		}
		mustUnlock(t, held)
		mustUnlock(t, b.mustLock(t))
	})
}

func TestLeaseOfADeadRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		a, b := newRelay(t, m), newRelay(t, m)
		a.mustLock(t).die(t)
		start := time.Now()
		held := b.mustLock(t)
		if took := time.Since(start); took < defaultExpire || took > defaultExpire+2*defaultRenew {
			t.Errorf("the lease was taken over after %s", took)
		}
		mustUnlock(t, held)

		// Its own dead process a relay needs not wait for.
		a.mustLock(t).die(t)
		start = time.Now()
		held = a.again().mustLock(t)
		if took := time.Since(start); took != 0 {
			t.Errorf("the lease of a dead process was taken over after %s", took)
		}
		mustUnlock(t, held)
	})
}

// A relay that is cut off notices before another can take over, and gets nothing done when the link is back.
func TestLeaseIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		a, b := newRelay(t, m), newRelay(t, m)
		held := a.mustLock(t)
		if err := increment(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		doc, err := a.Read(t.Context(), "active.json")
		if err != nil {
			t.Fatal(err)
		}
		a.link.cut(time.Minute)
		other := b.mustLock(t)
		var lost *LostError
		if err := held.Held(); !errors.As(err, &lost) {
			t.Errorf("two relays have the lease: %v", err)
		}
		if _, err := a.Write(t.Context(), "releases/x.json", nil, Any); !errors.As(err, &lost) {
			t.Errorf("%v; want *LostError", err)
		}
		if err := a.Remove(t.Context(), "releases/x.json"); !errors.As(err, &lost) {
			t.Errorf("%v; want *LostError", err)
		}
		time.Sleep(2 * time.Minute) // the link is back, and the renewal finds the other one
		if err := held.Held(); !errors.As(err, &lost) || lost.By == "" {
			t.Errorf("%v; want *LostError that names the other relay", err)
		}
		mustUnlock(t, held)
		if err := other.Held(); err != nil {
			t.Errorf("unlocking a lost lease ended the other relay's: %v", err)
		}
		if _, err := b.Write(t.Context(), "active.json", []byte("5"), doc.Version); err == nil {
			t.Error("the version that the lost holder knew is still the version")
		}
		mustUnlock(t, other)
	})
}

// A short cut costs nothing.
func TestLeaseSurvivesACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		a, b := newRelay(t, m), newRelay(t, m)
		held := a.mustLock(t)
		for range 20 {
			a.link.cut(3 * time.Second)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			if _, err := b.Lock(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			cancel()
			if err := held.Held(); err != nil {
				t.Fatal(err)
			}
		}
		mustUnlock(t, held)
	})
}

// The write of a relay that was asleep arrives after another one has taken over, and deleted what the write refers to. It
// must be refused, whether or not there was a document before.
func TestLateWriteIsFencedOff(t *testing.T) {
	for _, before := range []string{"", "7"} {
		t.Run("before "+strconv.Quote(before), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory()
				a, b := newRelay(t, m), newRelay(t, m)
				version := None
				if before != "" {
					var err error
					if version, err = a.Write(t.Context(), "active.json", []byte(before), None); err != nil {
						t.Fatal(err)
					}
				}
				held := a.mustLock(t)
				sent, arrives := make(chan struct{}), make(chan struct{})
				a.link.setBefore(func(_ context.Context, name string) error {
					if name == "active.json" {
						close(sent)
						<-arrives
						a.link.setBefore(nil)
						return nil
					}
					return errCut // and no renewal gets through
				})
				result := make(chan error)
				go func() {
					_, err := a.Write(t.Context(), "active.json", []byte("8"), version)
					result <- err
				}()
				<-sent
				other := b.mustLock(t)
				mustUnlock(t, other) // it changed no document: it collected garbage
				close(arrives)
				var changed *ChangedError
				if err := <-result; !errors.As(err, &changed) {
					t.Errorf("%v; want *ChangedError", err)
				}
				doc, err := b.Read(t.Context(), "active.json")
				if string(doc.Data) != before || (err != nil) != (before == "") {
					t.Errorf("%q, %v; want %q", doc.Data, err, before)
				}
				mustUnlock(t, held)

				// Whoever holds the lease properly goes on, also where there is no document but a fence.
				last := a.again().mustLock(t)
				if err := increment(t.Context(), last.b); err != nil {
					t.Error(err)
				}
				mustUnlock(t, last)
			})
		})
	}
}

// Nobody knows whether a write was done whose answer did not come, and what is not there now may come to be there. A
// relay that gives up then must not let the next one begin as if nothing were under way.
func TestDoubtfulWriteIsFencedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		a, b := newRelay(t, m), newRelay(t, m)
		if err := increment(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		held := a.mustLock(t)
		doc, err := a.Read(t.Context(), "active.json")
		if err != nil {
			t.Fatal(err)
		}
		a.link.setBefore(func(_ context.Context, name string) error {
			if name == "active.json" {
				return errCut
			}
			return nil
		})
		if _, err := a.Write(t.Context(), "active.json", []byte("late"), doc.Version); !errors.Is(err, errCut) {
			t.Fatal(err)
		}
		mustUnlock(t, held)
		other := b.mustLock(t)
		if _, err := m.put("active.json", []byte("late"), string(doc.Version)); !errors.Is(err, store.ErrPrecondition) {
			t.Errorf("the late write was done: %v", err)
		}
		mustUnlock(t, other)
	})
}

// What was written is known to be written even if no answer says so.
func TestLostAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		a := newRelay(t, m)
		mustUnlock(t, a.mustLock(t))
		a.link.rnd, a.link.lose = rand.New(rand.NewPCG(1, 1)), 1
		held := a.mustLock(t)
		for want := 1; want <= 5; want++ {
			if err := increment(t.Context(), a); err != nil {
				t.Fatal(err)
			}
			if doc, err := a.Read(t.Context(), "active.json"); err != nil || string(doc.Data) != fmt.Sprint(want) {
				t.Fatalf("%q, %v; want %d", doc.Data, err, want)
			}
		}
		time.Sleep(time.Hour)
		if err := held.Held(); err == nil {
			t.Error("a lease is kept though no renewal was ever answered") // the next one finds the counter risen, not when
		}
		mustUnlock(t, held)
	})
}

func TestChanged(t *testing.T) {
	m := newMemory()
	a := newRelay(t, m)
	want := func(have Version, want bool) {
		t.Helper()
		if changed, err := a.Changed(t.Context(), "active.json", have); err != nil || changed != want {
			t.Errorf("changed %v, %v; want %v", changed, err, want)
		}
	}
	want(None, false)
	want(Any, true)
	first, err := a.Write(t.Context(), "active.json", []byte("1"), None)
	if err != nil {
		t.Fatal(err)
	}
	want(None, true)
	want(first, false)
	if _, err := a.Write(t.Context(), "active.json", []byte("1"), first); err != nil {
		t.Fatal(err)
	}
	want(first, true)
}

// oneSided ignores one of the conditions, or knows none.
type oneSided struct {
	*link
	match   bool // If-Match is ignored, else If-None-Match
	unknown bool
	always  bool // one ETag for everything
}

func (o oneSided) Put(ctx context.Context, name string, data []byte, replaces string) (string, error) {
	switch {
	case o.unknown && replaces != store.AnyObject:
		return "", &store.S3Error{Op: "put", Key: name, Status: 501, Code: "NotImplemented", Err: errors.New("a header is not implemented")}
	case o.always:
		if _, err := o.link.Put(ctx, name, data, store.AnyObject); err != nil {
			return "", err
		}
		return `"x"`, nil
	case (replaces == store.NoObject) != o.match:
		replaces = store.AnyObject
	}
	return o.link.Put(ctx, name, data, replaces)
}

func TestServerWithoutConditions(t *testing.T) {
	for name, objects := range map[string]Objects{
		"If-None-Match ignored": oneSided{},
		"If-Match ignored":      oneSided{match: true},
		"unknown":               oneSided{unknown: true},
		"one ETag":              oneSided{always: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			o := objects.(oneSided)
			o.link = &link{memory: m}
			b := Bucket(o, BucketOptions{Dir: t.TempDir()})
			var no *NoConditionsError
			if _, err := b.Lock(t.Context(), nil); !errors.As(err, &no) {
				t.Errorf("%v; want *NoConditionsError", err)
			}
			if err := b.(Checker).Check(t.Context()); !errors.As(err, &no) {
				t.Errorf("%v; want *NoConditionsError", err)
			}
			if len(m.objects) != 0 {
				t.Errorf("%d objects are left", len(m.objects))
			}
		})
	}
}

// A server in trouble is not one without conditions.
func TestProbeOfASickServer(t *testing.T) {
	m := newMemory()
	a := newRelay(t, m)
	a.link.setBefore(func(context.Context, string) error { return &store.S3Error{Op: "put", Status: 503, Err: errCut} })
	var no *NoConditionsError
	if err := a.Check(t.Context()); err == nil || errors.As(err, &no) {
		t.Errorf("%v; want the server's error", err)
	}
	a.link.setBefore(nil)
	if err := a.Check(t.Context()); err != nil {
		t.Errorf("asked again: %v", err)
	}
	puts := m.puts
	if err := a.Check(t.Context()); err != nil || m.puts != puts {
		t.Errorf("%v; asked again though it is known", err)
	}
}

// Relays over bad links, of which some die and some fall asleep, count together: what a relay was told to be written is
// counted once, at no time do two believe that they hold the lease, and the end of all trouble is the end of waiting.
func TestRelaysCountTogether(t *testing.T) {
	seeds := 30
	if testing.Short() {
		seeds = 8
	}
	base := uint64(time.Now().UnixNano())
	total := tally{}
	for i := range seeds {
		seed := base + uint64(i)
		if !t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { countTogether(t, rand.New(rand.NewPCG(seed, 0)), &total) })
		}) {
			return
		}
	}
	t.Logf("%+v", total)
	if total.Done == 0 || total.Died == 0 || total.Lost == 0 || total.Failed == 0 {
		t.Error("the test proves too little")
	}
}

type tally struct{ Done, Unknown, Failed, Lost, Died int }

func countTogether(t *testing.T, rnd *rand.Rand, total *tally) {
	m := newMemory()
	var holders, written, unknown counter
	done := make(chan tally)
	const relays, rounds = 3, 12
	for range relays {
		r := newRelay(t, m)
		r.link.rnd = rand.New(rand.NewPCG(rnd.Uint64(), rnd.Uint64()))
		r.link.lose, r.link.drop, r.link.slow = rnd.Float64()/10, rnd.Float64()/20, time.Duration(1+rnd.Int64N(int64(time.Second)))
		own := rand.New(rand.NewPCG(rnd.Uint64(), rnd.Uint64()))
		go func() {
			var mine tally
			for range rounds {
				r = r.again()
				countOnce(t, r, own, &mine, &holders, &written, &unknown)
				time.Sleep(time.Duration(own.Int64N(int64(10 * time.Second))))
			}
			done <- mine
		}()
	}
	for range relays {
		mine := <-done
		total.Done, total.Unknown, total.Failed = total.Done+mine.Done, total.Unknown+mine.Unknown, total.Failed+mine.Failed
		total.Lost, total.Died = total.Lost+mine.Lost, total.Died+mine.Died
	}
	end := newRelay(t, m)
	held := end.mustLock(t)
	doc, err := end.Read(t.Context(), "active.json")
	n := 0
	if err == nil {
		n, err = strconv.Atoi(string(doc.Data))
	}
	if err != nil {
		t.Fatal(err)
	}
	if sure, may := written.add(0), unknown.add(0); n < sure || n > sure+may {
		t.Errorf("the count is %d; %d writes were answered, %d may have been done", n, sure, may)
	}
	mustUnlock(t, held)
}

// countOnce is one change by one process.
func countOnce(t *testing.T, r *fakeRelay, rnd *rand.Rand, mine *tally, holders, written, unknown *counter) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	lock, err := r.Lock(ctx, nil)
	if err != nil {
		mine.Failed++
		return
	}
	l := lock.(*lease)
	believes := l.Held() == nil
	if believes && holders.add(1) > 1 {
		t.Error("two relays hold the lease")
	}
	leave := func() {
		if believes {
			believes = false
			holders.add(-1)
		}
	}
	check := time.NewTicker(50 * time.Millisecond) // to stop believing as soon as Held says so
	defer check.Stop()
	for work := time.Duration(rnd.Int64N(int64(20 * time.Second))); work > 0; work -= 50 * time.Millisecond {
		<-check.C
		if believes && l.Held() != nil {
			leave()
		}
		if rnd.IntN(400) == 0 { // the link goes away for long
			r.link.cut(time.Duration(rnd.Int64N(int64(40 * time.Second))))
		}
	}
	leave() // what is written from now on is kept right by versions and fences alone
	switch rnd.IntN(5) {
	case 0:
		mine.Died++
		l.die(t)
		return
	default:
		err := increment(ctx, r)
		var changed *ChangedError
		var lost *LostError
		switch {
		case err == nil:
			mine.Done++
			written.add(1)
		case errors.As(err, &lost):
			mine.Lost++
		case errors.As(err, &changed):
			mine.Lost++
		default:
			mine.Unknown++
			unknown.add(1)
		}
	}
	mustUnlock(t, lock)
}
