package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
)

const (
	sampleBytes = 16 << 20         // that are tried at most
	sampleTime  = 2 * time.Second  // of reading, and of writing, at most
	sampleWait  = 10 * time.Second // for the first byte of a source
	sampleShare = 20               // of what a link would have to carry, at most one part in so many

	readStep  = 256 << 10 // bytes between two looks at the clock
	writeStep = 4 << 20   // bytes between two syncs: smaller ones would measure how fast the disk syncs
)

// What an estimate may find to be the slower one.
const (
	SlowerSource = "source"
	SlowerStore  = "store"
)

// ImportEstimate is how long copying would take, from what was tried just now. What comes after it, preparing Git and
// checking, is not in it.
type ImportEstimate struct {
	Seconds        int64  `json:"seconds"`           // rounded up
	BytesPerSecond int64  `json:"bytesPerSecond"`    // of the slower one
	Slower         string `json:"slower"`            // SlowerSource or SlowerStore
	Sample         int64  `json:"sample"`            // bytes read from the source
	Written        int64  `json:"written,omitempty"` // bytes written to the disk of the store, and gone again; 0: that could not be tried
}

// tried is how long some bytes took.
type tried struct {
	bytes int64
	took  time.Duration
}

// rate is in bytes a second. What took no time at all is fast, not endless.
func (t tried) rate() float64 { return float64(t.bytes) / max(t.took, time.Microsecond).Seconds() }

// estimateOf says how long bytes take that are read and written at once.
func estimateOf(bytes int64, read, written tried) *ImportEstimate {
	e := &ImportEstimate{Slower: SlowerSource, Sample: read.bytes, Written: written.bytes}
	rate := read.rate()
	if written.bytes > 0 && written.rate() < rate {
		e.Slower, rate = SlowerStore, written.rate()
	}
	e.BytesPerSecond = max(1, int64(rate))
	e.Seconds = int64(math.Ceil(float64(bytes) / rate))
	return e
}

// estimate tries how fast the source gives and the store takes what is to be copied: bytes, as long as any are. An error
// is one that the import would end with, too. What may be over by then, as a link that is down, is unknown's reason.
func (i *importing) estimate(ctx context.Context, bytes, free int64) (e *ImportEstimate, unknown string, err error) {
	if bytes <= 0 {
		return nil, "", nil
	}
	read, err := i.tryRead(ctx, bytes)
	var silent *silentError
	if errors.As(err, &silent) {
		return nil, err.Error(), nil
	}
	if err != nil {
		return nil, "", err
	}
	written, err := i.relay.tryWrite(ctx, bytes, free)
	if ctx.Err() != nil {
		return nil, "", ctx.Err()
	}
	if err != nil {
		return nil, fmt.Sprintf("the store takes nothing: %v", err), nil
	}
	return estimateOf(bytes, read, written), "", nil
}

// silentError says that a source gave nothing while it was waited for.
type silentError struct{ after time.Duration }

func (e *silentError) Error() string {
	return fmt.Sprintf("the source gave nothing within %s", e.after)
}

// errSampled ends the reading of a sample.
var errSampled = errors.New("the sample was read for long enough")

// tryRead reads some of the largest blob that is to be copied.
func (i *importing) tryRead(ctx context.Context, bytes int64) (tried, error) {
	node, offset, n := i.sample(ctx, bytes)
	sampling, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(sampleWait, func() { cancel(errSampled) })
	defer timer.Stop()

	t := tried{}
	began := time.Now() // a link's answer takes time for each blob: what comes of a small one comes with its first packet
	err := func() error {
		rc, err := openAt(sampling, i.src, node, offset)
		if err != nil {
			return err
		}
		defer rc.Close() //nolint:errcheck // only read from
		buf := make([]byte, min(readStep, n))
		for t.bytes < n && sampling.Err() == nil {
			k, err := rc.Read(buf[:min(int64(len(buf)), n-t.bytes)])
			if t.bytes == 0 && k > 0 {
				timer.Reset(sampleTime)
			}
			t.bytes += int64(k)
			switch {
			case t.bytes == n:
				return nil
			case errors.Is(err, io.EOF):
				return &bundle.DamagedError{Item: node.Item, Descriptor: node.Descriptor, Size: offset + t.bytes}
			case err != nil:
				return err
			}
		}
		return sampling.Err()
	}()
	t.took = time.Since(began)
	var damaged *bundle.DamagedError
	switch {
	case ctx.Err() != nil:
		return t, ctx.Err()
	case err == nil, errors.Is(context.Cause(sampling), errSampled) && t.bytes > 0:
		return t, nil
	case errors.Is(context.Cause(sampling), errSampled):
		return t, &silentError{after: sampleWait}
	case errors.As(err, &damaged):
		damaged.Item = node.Item
		return t, err
	case errors.Is(err, fs.ErrNotExist):
		return t, &bundle.MissingError{Item: node.Item, Descriptor: node.Descriptor, Err: err}
	}
	return t, fmt.Errorf("item %s: blob %s: %w", node.Item, node.Descriptor.Digest, err)
}

// sample says what to read: n bytes from an offset. Of a disk they are anywhere in what is to be copied, since the kernel
// has in memory what the dry run before has read. Registries are asked from the first byte on, as those without ranges
// send everything before an offset.
func (i *importing) sample(ctx context.Context, bytes int64) (node bundle.Node, offset, n int64) {
	left := int64(0)
	for _, m := range i.plan.missing {
		have := min(i.relay.store.Partial(ctx, m.Descriptor.Digest), m.Descriptor.Size)
		if m.Descriptor.Size-have > n {
			node, left, n = m, have, m.Descriptor.Size-have
		}
	}
	if isRegistry(i.options.From) {
		return node, 0, min(n, sampleBytes, max(1, bytes/sampleShare))
	}
	if _, ok := i.src.(media.RangeOpener); ok && n > sampleBytes {
		offset = left + rand.Int64N(n-sampleBytes+1)
	}
	return node, offset, min(n, sampleBytes)
}

// openAt opens without the patience that an import has.
func openAt(ctx context.Context, src media.Source, n bundle.Node, offset int64) (io.ReadCloser, error) {
	if ro, ok := src.(media.RangeOpener); ok && offset > 0 {
		return ro.OpenAt(ctx, n.Descriptor, offset)
	}
	return src.Open(ctx, n.Descriptor)
}

// tryWrite writes to the disk of the store what has no name there and is gone when it is closed, also by a power cut. It
// gives nothing when that cannot be done: in a bucket, on a file system without such files, on a disk that is nearly full.
func (r *Relay) tryWrite(ctx context.Context, bytes, free int64) (t tried, err error) {
	n := min(bytes, sampleBytes)
	if r.remote || free < n+2*reserve {
		return t, nil
	}
	f, err := os.OpenFile(filepath.Join(r.dir, "store"), unix.O_TMPFILE|os.O_WRONLY, 0o600)
	for _, none := range []error{syscall.EOPNOTSUPP, syscall.EISDIR, syscall.EINVAL, syscall.ENOENT} {
		if errors.Is(err, none) {
			return t, nil
		}
	}
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// Noise, as layers are: some file systems compress, and some disks.
	buf := make([]byte, min(writeStep, n))
	noise := rand.NewChaCha8([32]byte{})
	noise.Read(buf) //nolint:errcheck // it has none
	began := time.Now()
	for t.bytes < n && t.took < sampleTime && ctx.Err() == nil {
		k, err := f.Write(buf[:min(int64(len(buf)), n-t.bytes)])
		if err == nil {
			err = unix.Fdatasync(int(f.Fd()))
		}
		if err != nil {
			return tried{}, err
		}
		t.bytes += int64(k)
		t.took = time.Since(began)
	}
	return t, nil
}
