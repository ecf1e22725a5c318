package state

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/plimsoll/plimsoll/registry/store"
)

var errCut = errors.New("the connection broke")

// memory is a bucket with S3's rules about tags. Its requests take time, in the middle of which they take effect.
type memory struct {
	mu      sync.Mutex
	objects map[string]memoryObject
	puts    int
}

type memoryObject struct {
	data []byte
	tag  string
}

func newMemory() *memory { return &memory{objects: make(map[string]memoryObject)} }

func (m *memory) get(name string) (memoryObject, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[name]
	if !ok {
		return o, &fs.PathError{Op: "get", Path: name, Err: fs.ErrNotExist}
	}
	return o, nil
}

func (m *memory) put(name string, data []byte, replaces string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	have, there := m.objects[name]
	switch {
	case replaces == store.AnyObject:
	case replaces == store.NoObject && there, replaces != store.NoObject && (!there || have.tag != replaces):
		return "", &store.S3Error{Op: "put", Key: name, Status: 412, Code: "PreconditionFailed", Err: store.ErrPrecondition}
	}
	m.puts++
	tag := fmt.Sprintf("%q", fmt.Sprint("t", m.puts))
	m.objects[name] = memoryObject{slices.Clone(data), tag}
	return tag, nil
}

func (m *memory) remove(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, name)
}

func (m *memory) list(folder string) (names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(m.objects)) {
		if strings.HasPrefix(name, folder+"/") {
			names = append(names, name)
		}
	}
	return names
}

// link is one relay's way to the memory. The zero value has no faults.
type link struct {
	*memory
	rnd *rand.Rand // decides about faults; nil: none

	mu       sync.Mutex
	cutUntil time.Time                                    // nothing gets through
	lose     float64                                      // probability that an answer is lost, of a put that was done
	drop     float64                                      // probability that a request is lost
	slow     time.Duration                                // up to so long each way
	before   func(ctx context.Context, name string) error // runs before a put is carried out
}

func (l *link) setBefore(before func(ctx context.Context, name string) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.before = before
}

// cut lets nothing through for a while.
func (l *link) cut(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cutUntil = time.Now().Add(d)
}

// way is one direction of a request.
func (l *link) way(ctx context.Context) error {
	l.mu.Lock()
	var wait time.Duration
	dead := time.Now().Before(l.cutUntil)
	if l.rnd != nil && l.slow > 0 {
		wait = time.Duration(l.rnd.Int64N(int64(l.slow)))
	}
	dead = dead || l.rnd != nil && l.rnd.Float64() < l.drop
	l.mu.Unlock()
	if dead { // nobody says no: the time of the caller runs out, or the client's own
		if err := sleep(ctx, time.Minute); err != nil {
			return err
		}
		return errCut
	}
	if wait > 0 {
		return sleep(ctx, wait)
	}
	return ctx.Err()
}

func (l *link) Get(ctx context.Context, name string, limit int64) ([]byte, string, error) {
	if err := l.way(ctx); err != nil {
		return nil, "", err
	}
	o, err := l.get(name)
	if err == nil && int64(len(o.data)) > limit {
		err = errors.New("too large")
	}
	if err := errors.Join(err, l.way(ctx)); err != nil {
		return nil, "", err
	}
	return slices.Clone(o.data), o.tag, nil
}

func (l *link) Tag(ctx context.Context, name string) (string, error) {
	_, tag, err := l.Get(ctx, name, 1<<40)
	return tag, err
}

func (l *link) Put(ctx context.Context, name string, data []byte, replaces string) (string, error) {
	l.mu.Lock()
	before := l.before
	l.mu.Unlock()
	if before != nil {
		if err := before(ctx, name); err != nil {
			return "", err
		}
	}
	if err := l.way(ctx); err != nil {
		return "", err
	}
	tag, err := l.put(name, data, replaces)
	l.mu.Lock()
	lost := l.rnd != nil && l.rnd.Float64() < l.lose
	l.mu.Unlock()
	if lost {
		return "", errCut
	}
	if err := errors.Join(err, l.way(ctx)); err != nil {
		return "", err
	}
	return tag, nil
}

func (l *link) Delete(ctx context.Context, name string) error {
	if err := l.way(ctx); err != nil {
		return err
	}
	l.remove(name)
	return l.way(ctx)
}

func (l *link) List(ctx context.Context, folder string) ([]string, error) {
	if err := l.way(ctx); err != nil {
		return nil, err
	}
	return l.list(folder), l.way(ctx)
}
