package state

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/plimsoll/plimsoll/registry/store"
)

// Objects is where a bucket's documents are: *store.Objects. Tags and what Put may replace are as there.
type Objects interface {
	Get(ctx context.Context, name string, limit int64) (data []byte, tag string, err error)
	Tag(ctx context.Context, name string) (string, error)
	Put(ctx context.Context, name string, data []byte, replaces string) (tag string, err error)
	Delete(ctx context.Context, name string) error
	List(ctx context.Context, folder string) ([]string, error)
}

// BucketOptions are what Bucket takes beside the objects.
type BucketOptions struct {
	// Dir is the relay's own folder on this machine's disk. Its processes queue there before they ask the bucket, and by
	// its lock one knows that another is dead without waiting for its lease to run out.
	Dir string
	// Fenced names the documents that decide: whoever takes a lease over from a relay that does not answer any more first
	// makes sure that this relay cannot write them.
	Fenced []string

	// Renew is how often a lease is renewed, Expire how long it must have stood still before another relay takes it. The
	// defaults are 3 and 15 seconds. All relays of a bucket must have the same.
	Renew, Expire time.Duration
}

const (
	defaultRenew  = 3 * time.Second
	defaultExpire = 15 * time.Second
	// maxTries is how often a write is tried that the server refused without a reason.
	maxTries = 5
	// retryAfter is the time between two tries.
	retryAfter = 200 * time.Millisecond
)

// Bucket gives the documents that several relays share in an S3 bucket. A version is an object's ETag.
//
// An object has a line of its own before the document: which write made it, and under which lease. By the first, a write
// whose answer was lost is found out to have been done. The second keeps away a relay that has lost its lease without
// noticing it: see Lock.
//
// The lock is a lease: an object with a counter that the holder raises. A relay that waits takes the lease over when the
// counter has stood still for Expire by the waiting relay's own clock; clocks are never compared. It then writes the
// fenced documents again as they are, which gives them versions that the former holder does not know, so that whatever
// that one still writes is refused. Held, by the holder's clock, says so earlier; it is what deletions have to rely on.
func Bucket(objects Objects, o BucketOptions) Documents {
	if o.Renew == 0 {
		o.Renew = defaultRenew
	}
	if o.Expire == 0 {
		o.Expire = defaultExpire
	}
	return &bucket{objects: objects, options: o, owner: owner(o.Dir)}
}

type bucket struct {
	objects Objects
	options BucketOptions
	owner   string // the folder, as it is on this machine since its start

	mu      sync.Mutex
	checked bool   // the server compares
	lease   *lease // that this process has; nil without one
}

func (b *bucket) Read(ctx context.Context, name string) (Document, error) {
	obj, err := b.get(ctx, name)
	if err != nil {
		return Document{}, err
	}
	if obj.head.Nothing {
		return Document{}, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	return Document{Data: obj.data, Version: Version(obj.tag)}, nil
}

// object is an object as it was read.
type object struct {
	head head
	data []byte
	tag  string
}

func (b *bucket) get(ctx context.Context, name string) (object, error) {
	raw, tag, err := b.objects.Get(ctx, name, maxHead+MaxDocument)
	if err != nil {
		return object{}, err
	}
	h, data, err := readHead(raw)
	if err == nil && len(data) > MaxDocument {
		err = fmt.Errorf("more than %d bytes", MaxDocument)
	}
	if err != nil {
		return object{}, fmt.Errorf("%s: %w", name, err)
	}
	return object{h, data, tag}, nil
}

func (b *bucket) Write(ctx context.Context, name string, data []byte, replaces Version) (Version, error) {
	if len(data) > MaxDocument {
		return None, fmt.Errorf("%s: more than %d bytes", name, MaxDocument)
	}
	l := b.current()
	if err := l.Held(); err != nil {
		return None, fmt.Errorf("%s: %w", name, err)
	}
	h := head{Version: headVersion, Term: l.number(), Write: random()}
	body, err := h.before(data)
	if err != nil {
		return None, err
	}
	for try := 1; ; try++ {
		tag, err := b.objects.Put(ctx, name, body, string(replaces))
		if err == nil {
			return Version(tag), nil
		}
		there, lookErr := b.get(ctx, name)
		gone := errors.Is(lookErr, fs.ErrNotExist)
		if lookErr == nil && there.head.Write == h.Write { // the answer was lost
			return Version(there.tag), nil
		}
		if lookErr != nil && !gone {
			l.doubt(err)
			return None, errors.Join(err, lookErr)
		}
		same := replaces == Any || Version(there.tag) == replaces // of one that is gone the tag is None
		switch {
		case same && !errors.Is(err, store.ErrPrecondition):
			l.doubt(err) // it may still come to be there
			return None, err
		case there.head.Nothing && replaces == None && there.head.Term <= h.Term:
			replaces = Version(there.tag) // what an earlier lease was fenced off with
		case same && try < maxTries:
			// S3 may refuse one of two writes although the other was not done either.
			if err := sleep(ctx, retryAfter); err != nil {
				return None, err
			}
		default:
			// Another version: this write was not done, and will not be done any more.
			return None, &ChangedError{Name: name}
		}
	}
}

func (b *bucket) Remove(ctx context.Context, name string) error {
	if err := b.current().Held(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return b.objects.Delete(ctx, name)
}

func (b *bucket) List(ctx context.Context, folder string) ([]string, error) {
	names, err := b.objects.List(ctx, folder)
	slices.Sort(names)
	return names, err
}

// Changed asks for no more than the version.
func (b *bucket) Changed(ctx context.Context, name string, have Version) (bool, error) {
	tag, err := b.objects.Tag(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return have != None, nil
	}
	return err == nil && Version(tag) != have, err
}

// Held says whether the lease that this process has, if any, is still its own.
func (b *bucket) Held() error { return b.current().Held() }

// Lock queues in the folder first and then at the bucket.
func (b *bucket) Lock(ctx context.Context, waiting func()) (Lock, error) {
	once := func() {
		if waiting != nil {
			waiting()
			waiting = nil
		}
	}
	here, err := folder(b.options.Dir).Lock(ctx, once)
	if err != nil {
		return nil, err
	}
	var l *lease
	if err = b.checkOnce(ctx); err == nil {
		l, err = b.acquire(ctx, here, once)
	}
	if err != nil {
		return nil, errors.Join(err, here.Unlock())
	}
	b.setCurrent(l)
	return l, nil
}

func (b *bucket) current() *lease {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lease
}

func (b *bucket) setCurrent(l *lease) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lease = l
}

// random names one write or one holder.
func random() string {
	var p [16]byte
	rand.Read(p[:]) //nolint:errcheck // it never fails
	return hex.EncodeToString(p[:])
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// cut keeps what goes into an object for people within bounds.
func cut(text string, n int) string {
	return strings.ToValidUTF8(text[:min(len(text), n)], "")
}
