package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/progress"
)

const (
	defaultWorkers = 4
	maxWorkers     = 64
	maxKept        = 32 << 20 // bytes of manifests that are held between reading and writing; others are read twice
)

// Copy copies the bundle that src names, with what travels beside it, and commits it under its version. Children go
// before parents, what dst has is not read, everything is verified. It can be repeated after any failure and continues.
// workers blobs are copied at once, to a tar one after the other; 0 is what the options of a registry say, or a good
// number. To a registry a blob is mounted where it can be, and an upload that breaks is continued.
func Copy(ctx context.Context, dst Sink, src Source, p progress.Func, workers int) error {
	root, err := src.Root(ctx)
	if err != nil {
		return err
	}
	b, err := bundle.Load(ctx, src, root)
	if err != nil {
		return err
	}
	if workers <= 0 {
		workers = fewest(defaultWorkers, dst, src)
	}
	if _, sequential := dst.(*tarSink); sequential {
		workers = 1 // and in the order of the bundle, so that equal bundles give equal tars
	}
	c := &copier{dst: dst, src: src, workers: min(workers, maxWorkers), seen: make(map[role]struct{})}
	c.meter.send = p
	c.sources = newSources(dst, src, b.Lock)
	if err := b.Walk(ctx, src, c.add); err != nil {
		return err
	}
	beside, err := src.Referrers(ctx, root.Digest)
	if err != nil {
		return err
	}
	for _, r := range beside {
		if err := bundle.Walk(ctx, src, r.Descriptor, c.add); err != nil {
			return fmt.Errorf("beside the bundle: %w", err)
		}
	}
	if err := c.run(ctx); err != nil {
		return err
	}
	if err := dst.Commit(ctx, root, b.Lock.Version, beside); err != nil {
		return err
	}
	c.meter.end()
	return nil
}

// fewest gives the smallest number of workers that the options of the places say, or the given one.
func fewest(otherwise int, places ...any) int {
	n := 0
	for _, place := range places {
		if r, ok := place.(*remote); ok && r.workers > 0 && (n == 0 || r.workers < n) {
			n = r.workers
		}
	}
	if n == 0 {
		return otherwise
	}
	return n
}

// role is a digest in one of its two roles, which a registry keeps apart.
type role struct {
	digest   digest.Digest
	manifest bool
}

type job struct {
	bundle.Node
	subject digest.Digest // the manifest that it refers to, or ""
}

type copier struct {
	dst     Sink
	src     Source
	workers int
	meter   meter
	sources sources

	seen      map[role]struct{}
	kept      int64 // bytes in Raw of jobs
	blobs     []job
	manifests []job // of images and artifacts
	indexes   []job // children first

	listing sync.Mutex
	listed  map[digest.Digest]map[digest.Digest]bool // referrers by subject, as the destination lists them
}

// add plans one node. Manifests wait until their blobs are there, indexes until their manifests are.
func (c *copier) add(n bundle.Node) error {
	id := role{n.Descriptor.Digest, n.Manifest}
	if _, dup := c.seen[id]; dup {
		return nil
	}
	c.seen[id] = struct{}{}
	c.meter.total += n.Descriptor.Size
	j := job{Node: n}
	j.Descriptor = plain(n.Descriptor)
	if !n.Manifest {
		if bundle.IsManifest(j.Descriptor.MediaType) {
			j.Descriptor.MediaType = bundle.MediaTypeFileLayer // a registry keeps it among the blobs all the same
		}
		c.blobs = append(c.blobs, j)
		return nil
	}
	s, err := parseStatement(n.Descriptor, n.Raw)
	if err != nil {
		return err
	}
	j.subject = s.Subject
	if c.kept += int64(len(n.Raw)); c.kept > maxKept {
		c.kept -= int64(len(n.Raw))
		j.Raw = nil
	}
	if bundle.IsIndex(n.Descriptor.MediaType) {
		c.indexes = append(c.indexes, j)
	} else {
		c.manifests = append(c.manifests, j)
	}
	return nil
}

func (c *copier) run(ctx context.Context) error {
	c.meter.add("", 0)
	for _, jobs := range [][]job{c.blobs, c.manifests} {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(c.workers)
		for _, j := range jobs {
			g.Go(func() error {
				if err := gctx.Err(); err != nil {
					return err // do not begin what the first error makes useless
				}
				return c.copy(gctx, j)
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	for _, j := range c.indexes {
		if err := c.copy(ctx, j); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) copy(ctx context.Context, j job) error {
	has, err := c.dst.Has(ctx, j.Descriptor)
	if err == nil && has && j.subject != "" {
		has, err = c.isListed(ctx, j)
	}
	if err != nil {
		return err
	}
	if has {
		c.meter.add(j.Item, j.Descriptor.Size)
		return nil
	}
	return inItem(ctx, j.Item, c.put(ctx, j))
}

// isListed reports whether the destination knows of whom a manifest speaks. A registry without a list of referrers has it
// under a tag, which a cut may have left without this one.
func (c *copier) isListed(ctx context.Context, j job) (bool, error) {
	r, ok := c.dst.(*remote)
	if !ok {
		return true, nil // it is entered with the Commit
	}
	c.listing.Lock()
	defer c.listing.Unlock()
	if c.listed[j.subject] == nil {
		refs, err := r.listReferrers(ctx, j.subject)
		if err != nil {
			return false, err
		}
		known := make(map[digest.Digest]bool, len(refs))
		for _, ref := range refs {
			known[ref.Digest] = true
		}
		if c.listed == nil {
			c.listed = make(map[digest.Digest]map[digest.Digest]bool)
		}
		c.listed[j.subject] = known
	}
	return c.listed[j.subject][j.Descriptor.Digest], nil
}

func (c *copier) put(ctx context.Context, j job) error {
	m := &metered{c: c, item: j.Item}
	var err error
	if r, ok := c.dst.(*remote); ok {
		err = r.putFrom(ctx, j.Descriptor, func(offset int64) (io.ReadCloser, error) { return c.openAt(ctx, j, m, offset) }, c.sources.of(j.Item))
	} else if m.r, err = c.open(ctx, j); err == nil {
		err = errors.Join(c.dst.Put(ctx, j.Descriptor, m), m.Close())
	}
	if err != nil {
		c.meter.add(j.Item, -m.n)
		return err
	}
	c.meter.add(j.Item, j.Descriptor.Size-m.n) // of a blob that the sink had got meanwhile nothing was read
	return nil
}

// openAt counts the first pass only.
func (c *copier) openAt(ctx context.Context, j job, m *metered, offset int64) (_ io.ReadCloser, err error) {
	if m.r == nil {
		if m.r, err = c.open(ctx, j); err != nil {
			return nil, err
		}
		return m, nil
	}
	if j.Raw != nil {
		return io.NopCloser(bytes.NewReader(j.Raw[offset:])), nil
	}
	from, ok := c.src.(RangeOpener)
	if !ok {
		return nil, fmt.Errorf("the link broke, and the source cannot be read from byte %d", offset)
	}
	return ResumeAt(ctx, from, j.Descriptor, offset)
}

func (c *copier) open(ctx context.Context, j job) (io.ReadCloser, error) {
	if j.Raw != nil {
		return io.NopCloser(bytes.NewReader(j.Raw)), nil
	}
	rc, err := Resume(ctx, c.src, j.Descriptor)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &bundle.MissingError{Descriptor: j.Descriptor, Err: err}
	}
	return rc, err
}

// inItem says in the error to which item the blob belongs. The two errors that have a field for it get it; their text may
// be part of another one's already.
//
// When ctx is done the error is left alone: net/http returns the cause of a cancellation, which in a group is the error
// value of another worker, about another item.
func inItem(ctx context.Context, item string, err error) error {
	if err == nil || item == "" || ctx.Err() != nil {
		return err
	}
	var missing *bundle.MissingError
	var damaged *bundle.DamagedError
	if errors.As(err, &missing) {
		missing.Item = item
	}
	if errors.As(err, &damaged) {
		damaged.Item = item
	}
	if prefix := "item " + item + ": "; !strings.HasPrefix(err.Error(), prefix) {
		return fmt.Errorf("%s%w", prefix, err)
	}
	return err
}

type metered struct {
	r    io.ReadCloser
	c    *copier
	item string
	n    int64
}

func (m *metered) Close() error { return m.r.Close() }

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if n > 0 {
		m.n += int64(n)
		m.c.meter.add(m.item, int64(n))
	}
	return n, err
}

// meter counts the bytes of all blobs together.
type meter struct {
	send  progress.Func
	total int64 // written before the first add

	mu   sync.Mutex
	done int64
}

func (m *meter) add(item string, n int64) {
	m.mu.Lock()
	defer m.mu.Unlock() // held while it is sent, so that events come in order
	m.done += n
	m.send.Report(progress.Event{Stage: "copy", Name: item, Done: m.done, Total: m.total})
}

func (m *meter) end() {
	m.send.Report(progress.Event{Stage: "copy", Done: m.total, Total: m.total, End: true})
}
