package registry

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

// Limits of the manifests in memory, in bytes. They hold for the bytes of the manifests; what is around them is a tenth.
const (
	maxCached   = 8 << 20   // of all
	maxManifest = 256 << 10 // of one; larger ones are sent from the store
)

// cache keeps verified manifests, since five hundred robots ask for the same ones at the same moment. It gives room by
// second chance: what nobody asked for since it was last looked at goes first. The zero value works.
type cache struct {
	mu      sync.RWMutex
	entries map[digest.Digest]*cached
	queue   []*cached // of entries, the next to go first
	bytes   int64
	loading map[digest.Digest]*load
}

// cached is a manifest with the values of its headers, which all responses share.
type cached struct {
	body   []byte
	digest []string
	etag   []string
	length []string
	used   atomic.Bool // since it came to the end of the queue
}

type load struct {
	done  chan struct{}
	entry *cached
	err   error
}

func newCached(d digest.Digest, body []byte) *cached {
	d = digest.Digest(strings.Clone(string(d))) // not a piece of a request's line, which may be long
	return &cached{
		body: body, digest: []string{string(d)}, etag: []string{`"` + string(d) + `"`}, length: []string{strconv.Itoa(len(body))},
	}
}

// get gives the manifest of a digest, by read if it is not there. Requests that come meanwhile wait for the one read: the
// first moment of a pull by all robots would otherwise read as often, and hold as many copies.
func (c *cache) get(ctx context.Context, d digest.Digest, read func(context.Context) ([]byte, error)) (*cached, error) {
	c.mu.RLock()
	e := c.entries[d]
	c.mu.RUnlock()
	if e != nil {
		if !e.used.Load() { // most find it set; a write by each would pass the line from core to core
			e.used.Store(true)
		}
		return e, nil
	}
	c.mu.Lock()
	if e = c.entries[d]; e != nil {
		c.mu.Unlock()
		return e, nil
	}
	if l := c.loading[d]; l != nil {
		c.mu.Unlock()
		select {
		case <-l.done:
			return l.entry, l.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	l := &load{done: make(chan struct{}), err: context.Canceled} // the error that the others see if read panics
	if c.loading == nil {
		c.loading, c.entries = make(map[digest.Digest]*load), make(map[digest.Digest]*cached)
	}
	c.loading[d] = l
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.loading, d)
		if l.entry != nil {
			c.add(digest.Digest(l.entry.digest[0]), l.entry)
		}
		c.mu.Unlock()
		close(l.done)
	}()
	// The others wait for this read, also when the client of this request goes away.
	body, err := read(context.WithoutCancel(ctx))
	if l.err = err; err == nil {
		l.entry = newCached(d, body)
	}
	return l.entry, l.err
}

// add puts an entry at the end of the queue and makes room for it; the caller holds mu.
func (c *cache) add(d digest.Digest, e *cached) {
	c.entries[d] = e
	c.queue = append(c.queue, e)
	c.bytes += int64(len(e.body))
	for c.bytes > maxCached {
		oldest := c.queue[0]
		c.queue[0], c.queue = nil, c.queue[1:]
		if oldest.used.Swap(false) {
			c.queue = append(c.queue, oldest)
			continue
		}
		delete(c.entries, digest.Digest(oldest.digest[0]))
		c.bytes -= int64(len(oldest.body))
	}
}
