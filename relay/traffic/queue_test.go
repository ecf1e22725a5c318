package traffic

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// entrant is a request that entered a queue or waits to.
type entrant struct {
	name   string
	cancel context.CancelFunc
	leave  func()
	err    error
}

// enter starts requests that enter in the order of names, each "client" or "client/serial", and returns when all of them run
// or wait. Each that gets in sends itself.
func enter(t *testing.T, q *Queue, in chan<- *entrant, names ...string) []*entrant {
	t.Helper()
	var all []*entrant
	for _, name := range names {
		ctx, cancel := context.WithCancel(t.Context())
		e := &entrant{name: name, cancel: cancel}
		all = append(all, e)
		client, _, _ := splitName(name)
		go func() {
			e.leave, e.err = q.Enter(ctx, client)
			in <- e
		}()
		synctest.Wait()
	}
	return all
}

func splitName(name string) (client, serial string, ok bool) {
	for i := range name {
		if name[i] == '/' {
			return name[:i], name[i+1:], true
		}
	}
	return name, "", false
}

// order lets the queue run until it is empty, one leaving after the other, and tells who came in which order.
func order(t *testing.T, in <-chan *entrant) []string {
	t.Helper()
	var got []string
	for {
		synctest.Wait()
		select {
		case e := <-in:
			if e.err != nil {
				t.Fatalf("%s: %v", e.name, e.err)
			}
			got = append(got, e.name)
			e.leave()
		default:
			return got
		}
	}
}

func TestQueueServesClientsInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(QueueOptions{Slots: 1})
		in := make(chan *entrant, 100)
		enter(t, q, in, "a/1", "a/2", "a/3", "a/4", "b/1", "b/2", "c/1", "a/5")
		want := []string{"a/1", "a/2", "b/1", "c/1", "a/3", "b/2", "a/4", "a/5"}
		if got := order(t, in); !slices.Equal(got, want) {
			t.Errorf("served in the order %v, want %v", got, want)
		}
		if s := q.Stats(); s.Running != 0 || s.Waiting != 0 || s.Clients != 0 || s.Entered != 8 {
			t.Errorf("stats at the end: %+v", s)
		}
	})
}

func TestQueueBoundsAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(QueueOptions{Slots: 4, PerClient: 2})
		in := make(chan *entrant, 100)
		enter(t, q, in, "a/1", "a/2", "a/3", "a/4", "b/1")
		if s := q.Stats(); s.Running != 3 || s.Waiting != 2 || s.Clients != 2 {
			t.Errorf("a client at its bound: %+v; want b to run beside it", s)
		}
		if got := order(t, in); len(got) != 5 {
			t.Errorf("served %v", got)
		}
	})
}

func TestQueueForgetsWhoGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(QueueOptions{Slots: 1})
		in := make(chan *entrant, 100)
		all := enter(t, q, in, "a/1", "b/1", "b/2", "c/1")
		running := <-in
		for _, gone := range []int{1, 3} {
			all[gone].cancel()
			synctest.Wait()
			if e := <-in; e != all[gone] || !errors.Is(e.err, context.Canceled) {
				t.Fatalf("got %s: %v; want %s to be gone", e.name, e.err, all[gone].name)
			}
		}
		if s := q.Stats(); s.Waiting != 1 || s.Gone != 2 || s.Clients != 2 {
			t.Errorf("after two went away: %+v", s)
		}
		running.leave()
		running.leave() // does nothing: there is one slot
		if got := order(t, in); !slices.Equal(got, []string{"b/2"}) {
			t.Errorf("served %v, want b/2", got)
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(QueueOptions{Slots: 1, MaxWaiting: 3})
		in := make(chan *entrant, 100)
		enter(t, q, in, "a/0")
		running := <-in
		enter(t, q, in, "a/1", "a/2", "a/3")
		if e := enter(t, q, in, "a/4")[0]; !errors.Is((<-in).err, ErrFull) {
			t.Errorf("a fourth waiting request: %v, want ErrFull", e.err)
		}
		// Another client takes the place of the newest of the one that has most.
		enter(t, q, in, "b/1")
		if e := <-in; e.name != "a/3" || !errors.Is(e.err, ErrFull) {
			t.Errorf("%s: %v; want a/3 to make room", e.name, e.err)
		}
		// It gains nothing for a client to be one behind: that would go on for ever.
		enter(t, q, in, "b/2")
		if e := <-in; e.name != "b/2" || !errors.Is(e.err, ErrFull) {
			t.Errorf("%s: %v; want b/2 to be refused", e.name, e.err)
		}
		running.leave()
		if got, want := order(t, in), []string{"a/1", "b/1", "a/2"}; !slices.Equal(got, want) {
			t.Errorf("served %v, want %v", got, want)
		}
		if s := q.Stats(); s.Full != 3 {
			t.Errorf("stats: %+v, want 3 that were turned away", s)
		}
	})
}

func TestQueueWithoutBounds(t *testing.T) {
	var none *Queue
	leave, err := none.Enter(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	leave()
	if s := none.Stats(); s != (QueueStats{}) {
		t.Errorf("stats of no queue: %+v", s)
	}
	q := NewQueue(QueueOptions{})
	for range 1000 {
		if _, err := q.Enter(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := q.Enter(done, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("a client that is gone entered: %v", err)
	}
}

// TestQueueKeepsItsSlots lets many clients enter, go away and leave at the same time: no more run than may, of all and of each,
// and in the end every slot is free.
func TestQueueKeepsItsSlots(t *testing.T) {
	const slots, perClient = 4, 2
	q := NewQueue(QueueOptions{Slots: slots, PerClient: perClient, MaxWaiting: 40})
	var running atomic.Int64
	var own [7]atomic.Int64
	var wg sync.WaitGroup
	for worker := range 60 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(worker), 1))
			for range 200 {
				client := rng.IntN(len(own))
				ctx, cancel := context.WithCancel(t.Context())
				if rng.IntN(3) == 0 {
					go cancel()
				}
				leave, err := q.Enter(ctx, fmt.Sprint(client))
				if err == nil {
					if n := running.Add(1); n > slots {
						t.Errorf("%d run at one time", n)
					}
					if n := own[client].Add(1); n > perClient {
						t.Errorf("%d of one client run at one time", n)
					}
					runtime.Gosched()
					own[client].Add(-1)
					running.Add(-1)
					leave()
				} else if !errors.Is(err, context.Canceled) && !errors.Is(err, ErrFull) {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	s := q.Stats()
	if s.Running != 0 || s.Waiting != 0 || s.Clients != 0 || q.line.ready() {
		t.Errorf("at the end: %+v", s)
	}
	if s.Entered == 0 || s.Full == 0 || s.Gone == 0 {
		t.Errorf("the test did not get everywhere: %+v", s)
	}
}

// TestSlotThatComesTooLateIsGivenOn: the slot comes at the moment when the request goes away.
func TestSlotThatComesTooLateIsGivenOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(QueueOptions{Slots: 1})
		in := make(chan *entrant, 2)
		enter(t, q, in, "a")
		w := q.line.push("b", &waiter{called: make(chan struct{})})
		enter(t, q, in, "c")
		(<-in).leave()
		if <-w.value.called; q.Stats().Waiting != 1 {
			t.Fatalf("the slot went to another: %+v", q.Stats())
		}
		q.abandon("b", w)
		if e := <-in; e.name != "c" || e.err != nil {
			t.Errorf("%s: %v", e.name, e.err)
		}
	})
}

// TestQueueCountsWaiting shows what metrics see of a wait.
func TestQueueCountsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(QueueOptions{Slots: 1})
		in := make(chan *entrant, 2)
		enter(t, q, in, "a", "b")
		time.Sleep(3 * time.Second) // virtual
		order(t, in)
		if s := q.Stats(); s.Waited != 3*time.Second {
			t.Errorf("waited %s, want 3s", s.Waited)
		}
	})
}
