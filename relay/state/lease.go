package state

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/plimsoll/plimsoll/internal/strictjson"
	"github.com/plimsoll/plimsoll/registry/store"
)

const (
	leaseName    = "lease.json"
	leaseVersion = "plimsoll.lease.v1"
	// maxLease bounds the object of the lease, in bytes.
	maxLease = 2048
	maxHost  = 128
	maxOwner = 256
)

// term is the object of the lease.
type term struct {
	Version string `json:"apiVersion"`
	Number  uint64 `json:"number"`  // rises by one with each holder
	Holder  string `json:"holder"`  // a name of this one holding
	Owner   string `json:"owner"`   // the folder that it is held for; empty when that has no name
	Host    string `json:"host"`    // for people only
	Counter uint64 `json:"counter"` // rises while it is held
	Free    bool   `json:"free"`    // it was given back
}

// LostError says that a relay did not keep its lease: it was cut off, or asleep, while it changed something.
type LostError struct {
	By    string        // the host that took it; empty when that is not known
	Since time.Duration // since it was renewed last; 0 when another has it
}

func (e *LostError) Error() string {
	if e.By == "" {
		return fmt.Sprintf("the right to change the shared state was not renewed for %s: the bucket does not answer", e.Since.Round(time.Second))
	}
	return fmt.Sprintf("the right to change the shared state went to another relay, %s: this one did not answer for too long", e.By)
}

// readTerm parses the object of the lease.
func readTerm(raw []byte) (term, error) {
	var t term
	if err := strictjson.UnmarshalCanonical(raw, &t); err != nil {
		return t, err
	}
	switch {
	case t.Version != leaseVersion:
		return t, fmt.Errorf("apiVersion %q, this version reads %q", t.Version, leaseVersion)
	case t.Number == 0, !randomPattern.MatchString(t.Holder), len(t.Owner) > maxOwner, len(t.Host) > maxHost:
		return t, fmt.Errorf("term %d of %.40q", t.Number, t.Holder)
	}
	return t, nil
}

// lease is a term that this process holds, or has lost. Its goroutine ends with Unlock. A nil lease is that of a process
// that never asked for one: what it writes is decided by versions alone.
type lease struct {
	b    *bucket
	here Lock // of the folder

	stop context.CancelFunc
	done chan struct{} // closed when run has ended

	mu      sync.Mutex
	term    term
	tag     string
	renewed time.Time // when the last request was sent that renewed it
	lost    error
	doubted bool // a write may still come to be done
}

// owner names a folder on this machine for as long as the machine is up; empty when it cannot.
func owner(dir string) string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return ""
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return cut(strings.TrimSpace(string(boot))+"-"+strconv.FormatUint(uint64(st.Dev), 36)+"-"+strconv.FormatUint(st.Ino, 36), maxOwner)
}

func (b *bucket) readLease(ctx context.Context) (term, string, error) {
	raw, tag, err := b.objects.Get(ctx, leaseName, maxLease)
	if err != nil {
		return term{}, "", err
	}
	t, err := readTerm(raw)
	if err != nil {
		return t, "", fmt.Errorf("%s: %w", leaseName, err)
	}
	return t, tag, nil
}

func (b *bucket) writeLease(ctx context.Context, t term, replaces string) (string, error) {
	raw, err := strictjson.Marshal(t)
	if err != nil {
		return "", err
	}
	return b.objects.Put(ctx, leaseName, raw, replaces)
}

// acquire waits until the lease is free, or taken over. The caller holds the lock of the folder.
func (b *bucket) acquire(ctx context.Context, here Lock, waiting func()) (*lease, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	mine := term{Version: leaseVersion, Holder: random(), Owner: b.owner, Host: cut(host, maxHost)}
	var stands string         // the tag that was seen last
	var since, sent time.Time // when it was seen first; when this one asked for the lease first
	for failed := 0; ; {
		have, tag, err := b.readLease(ctx)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			if failed++; failed == maxTries || ctx.Err() != nil { // who has waited for long must not give up for one answer
				return nil, err
			}
			if err := sleep(ctx, retryAfter); err != nil {
				return nil, err
			}
			continue
		}
		dead := b.owner != "" && have.Owner == b.owner // its process is, or it would have the folder's lock
		switch {
		case err != nil, have.Free, dead, have.Holder == mine.Holder:
		case tag != stands:
			stands, since = tag, time.Now()
			fallthrough
		case time.Since(since) < b.options.Expire:
			failed = 0
			waiting()
			if err := sleep(ctx, b.options.Renew/3); err != nil {
				return nil, err
			}
			continue
		}
		if sent.IsZero() {
			sent = time.Now()
		}
		taken := err == nil && !have.Free // from somebody who did not give it back; or it is not known from whom
		if have.Holder == mine.Holder {
			mine = have
		} else {
			mine.Number = have.Number + 1
			tag, err = b.writeLease(ctx, mine, tag)
		}
		switch {
		case err == nil:
		case errors.Is(err, store.ErrPrecondition): // somebody was faster, or the answer was lost
		case ctx.Err() != nil:
			return nil, err
		default:
			if failed++; failed == maxTries {
				return nil, err
			}
		}
		if err != nil {
			if err := sleep(ctx, retryAfter); err != nil {
				return nil, err
			}
			continue
		}
		l := b.hold(ctx, mine, tag, sent, here)
		if taken {
			if err := l.fence(ctx); err != nil {
				l.end()
				return nil, err // not given back: the next holder must fence too
			}
		}
		return l, nil
	}
}

// hold begins to renew.
func (b *bucket) hold(ctx context.Context, t term, tag string, sent time.Time, here Lock) *lease {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx)) // an import that is cancelled still cleans up
	l := &lease{b: b, here: here, stop: stop, done: make(chan struct{}), term: t, tag: tag, renewed: sent}
	go l.run(ctx)
	return l
}

// run renews the lease until it is stopped, or lost.
func (l *lease) run(ctx context.Context) {
	defer close(l.done)
	ticker := time.NewTicker(l.b.options.Renew)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if !l.renew(ctx) {
				return
			}
		}
	}
}

// renew raises the counter; it gives false when another has the lease.
func (l *lease) renew(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, l.b.options.Expire/3)
	defer cancel()
	for range 2 {
		l.mu.Lock()
		next, tag := l.term, l.tag
		l.mu.Unlock()
		next.Counter++
		sent := time.Now()
		tag, err := l.b.writeLease(ctx, next, tag)
		if err == nil {
			l.set(next, tag, sent)
			return true
		}
		if !errors.Is(err, store.ErrPrecondition) {
			return true // the next time, perhaps; Held counts the seconds
		}
		have, tag, err := l.b.readLease(ctx)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			l.lose(&LostError{By: "which removed the lease"})
			return false
		case err != nil:
			return true
		case have.Holder != l.term.Holder:
			l.lose(&LostError{By: have.Host})
			return false
		}
		l.set(have, tag, time.Time{}) // an earlier request, whose answer was lost
	}
	return true
}

// set takes what the bucket has now. The time is zero when it is not known.
func (l *lease) set(t term, tag string, sent time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.term.Counter, l.tag = t.Counter, tag
	if !sent.IsZero() {
		l.renewed = sent
	}
}

func (l *lease) lose(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost = err
}

// Held is true to the holder's own clock, which runs since before the request that renewed the lease was sent; a relay
// that waits began to count when it saw the effect of that request. The third of Expire that is left is for what is begun
// after Held was asked.
func (l *lease) Held() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost != nil {
		return l.lost
	}
	if d := time.Since(l.renewed); d > l.b.options.Expire*2/3 {
		return &LostError{Since: d}
	}
	return nil
}

// number is the term that fences and writes name.
func (l *lease) number() uint64 {
	if l == nil {
		return 0
	}
	return l.term.Number // never changes
}

// doubt remembers that a request was sent of which nobody knows whether it will be done. Such a lease is not given back:
// the next holder takes it over, and fences.
func (l *lease) doubt(err error) {
	var answer *store.S3Error
	if l == nil || errors.As(err, &answer) && answer.Status >= 400 && answer.Status < 500 {
		return // it was refused
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doubted = true
}

// fence gives each document that decides a version that no former holder knows.
func (l *lease) fence(ctx context.Context) error {
	for _, name := range l.b.options.Fenced {
		if err := l.fenceOne(ctx, name); err != nil {
			return fmt.Errorf("take over the lease: %w", err)
		}
	}
	return nil
}

func (l *lease) fenceOne(ctx context.Context, name string) error {
	for try := 1; ; try++ {
		have, err := l.b.get(ctx, name)
		if errors.Is(err, fs.ErrNotExist) {
			have, err = object{head: head{Nothing: true}}, nil
		}
		if err != nil {
			return err
		}
		if have.head.Term >= l.number() { // ours: the answer was lost
			return nil
		}
		body, err := head{Version: headVersion, Term: l.number(), Write: random(), Nothing: have.head.Nothing}.before(have.data)
		if err != nil {
			return err
		}
		if _, err = l.b.objects.Put(ctx, name, body, have.tag); err == nil {
			return nil
		}
		// The former holder may have been the faster one, once, or the answer was lost.
		if try == maxTries {
			return err
		}
		if err := sleep(ctx, retryAfter); err != nil {
			return err
		}
	}
}

// Unlock gives the lease back. When the bucket does not answer, others have to wait until it runs out: what was done
// under it is done.
func (l *lease) Unlock() error {
	l.end()
	l.mu.Lock()
	free, tag, keep := l.term, l.tag, l.doubted || l.lost != nil
	l.mu.Unlock()
	free.Free = true
	ctx, cancel := context.WithTimeout(context.Background(), l.b.options.Expire/3)
	defer cancel()
	for range 2 {
		if keep {
			break
		}
		if _, err := l.b.writeLease(ctx, free, tag); !errors.Is(err, store.ErrPrecondition) {
			break
		}
		have, now, err := l.b.readLease(ctx) // the answer to a renewal may have been lost
		if err != nil || have.Holder != free.Holder || have.Free {
			break
		}
		tag = now
	}
	l.b.setCurrent(nil)
	return l.here.Unlock()
}

// end stops renewing.
func (l *lease) end() {
	l.stop()
	<-l.done
}
