package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
)

// slowSource gives zeros of any blob at a rate, by the clock of a bubble.
type slowSource struct {
	media.Source
	rate    int64         // bytes a second
	latency time.Duration // of an answer
	short   int64         // by how much blobs end early
	fail    error         // of opening
	after   error         // of reading, behind half a sample

	asked    digest.Digest
	from     int64
	gave     int64
	openings int
	closings int
}

func (s *slowSource) Open(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	return s.OpenAt(ctx, d, 0)
}

func (s *slowSource) OpenAt(ctx context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	s.asked, s.from = d.Digest, offset
	s.openings++
	if err := wait(ctx, s.latency); err != nil {
		return nil, err
	}
	return &slowReader{s: s, ctx: ctx, left: d.Size - offset - s.short}, s.fail
}

type slowReader struct {
	s    *slowSource
	ctx  context.Context
	left int64
}

func (r *slowReader) Read(p []byte) (int, error) {
	if r.s.after != nil && r.s.gave >= sampleBytes/2 {
		return 0, r.s.after
	}
	n := min(int64(len(p)), r.left, 4<<10)
	if n <= 0 {
		return 0, io.EOF
	}
	if err := wait(r.ctx, time.Duration(float64(n)/float64(r.s.rate)*float64(time.Second))); err != nil {
		return 0, err
	}
	r.left -= n
	r.s.gave += n
	return int(n), nil
}

func (r *slowReader) Close() error {
	r.s.closings++
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// bubble has a bundle of two blobs, of which the larger one is the given size, tried from a source.
func bubble(t *testing.T, r *Relay, from string, size int64, s *slowSource, what func(t *testing.T, i *importing, bytes int64)) {
	t.Helper()
	large := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromString("large"), Size: size}
	small := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromString("small"), Size: size / 4}
	i := &importing{relay: r, src: s, options: ImportOptions{From: from}, plan: &plan{
		missing: []bundle.Node{{Item: "app", Descriptor: small}, {Item: "app", Descriptor: large}},
	}}
	synctest.Test(t, func(t *testing.T) { what(t, i, large.Size+small.Size) })
	if s.openings > 0 && (s.fail == nil && s.openings != s.closings || s.openings > 1 || s.asked != large.Digest) {
		t.Errorf("%s was opened %d times and closed %d times", s.asked, s.openings, s.closings)
	}
}

func emptyRelay(t *testing.T) *Relay {
	t.Helper()
	r, err := Open(t.Context(), t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const manyBytes = int64(1) << 40 // free

// How long it takes is told from a little of the largest blob: of a disk 16 MiB, of a link at most one part in twenty, and
// of either what comes within two seconds.
func TestEstimate(t *testing.T) {
	const disk, link = "/media/usb/robot-stack.tar", "oci://registry.example.com/releases/robot-stack:v1"
	for name, c := range map[string]struct {
		from          string
		size          int64
		rate          int64
		latency       time.Duration
		atMost        int64 // read
		seconds, till int64
	}{
		"a fast stick":         {from: disk, size: 4 << 30, rate: 100 << 20, atMost: sampleBytes, seconds: 51, till: 53},
		"a slow stick":         {from: disk, size: 4 << 30, rate: 2 << 20, atMost: 4<<20 + readStep, seconds: 2560, till: 2570},
		"a small bundle":       {from: disk, size: 1 << 20, rate: 1 << 20, atMost: 1 << 20, seconds: 1, till: 2},
		"a good link":          {from: link, size: 4 << 30, rate: 10 << 20, atMost: sampleBytes, seconds: 512, till: 514},
		"a thin link":          {from: link, size: 40 << 20, rate: 50 << 10, atMost: 128 << 10, seconds: 1020, till: 1030},
		"a few bytes":          {from: link, size: 4 << 20, rate: 1 << 20, atMost: 256 << 10, seconds: 5, till: 6},
		"few, and far away":    {from: link, size: 4 << 20, rate: 1 << 30, latency: time.Second, atMost: 256 << 10, seconds: 20, till: 21},
		"nearly nothing":       {from: link, size: 8, rate: 1 << 20, atMost: 1, seconds: 1, till: 1},
		"a link that wakes up": {from: link, size: 4 << 30, rate: 10 << 20, latency: 8 * time.Second, atMost: sampleBytes, seconds: 3000, till: 3200},
	} {
		t.Run(name, func(t *testing.T) {
			s := &slowSource{rate: c.rate, latency: c.latency}
			bubble(t, emptyRelay(t), c.from, c.size, s, func(t *testing.T, i *importing, bytes int64) {
				began := time.Now()
				e, unknown, err := i.estimate(t.Context(), bytes, 0)
				if err != nil || unknown != "" || e == nil {
					t.Fatalf("%v %s %v", e, unknown, err)
				}
				if e.Seconds < c.seconds || e.Seconds > c.till || e.Slower != SlowerSource || e.Written != 0 {
					t.Errorf("%+v, want %d to %d seconds", e, c.seconds, c.till)
				}
				if s.gave != e.Sample || s.gave == 0 || s.gave > c.atMost {
					t.Errorf("%d bytes were read, %d told, want at most %d", s.gave, e.Sample, c.atMost)
				}
				if took := time.Since(began); took > c.latency+sampleTime+100*time.Millisecond {
					t.Errorf("it took %s", took)
				}
				if c.from == link && s.from != 0 {
					t.Errorf("read from byte %d", s.from)
				}
			})
		})
	}
}

// Nothing to copy takes no time, and nobody is asked.
func TestEstimateOfNothing(t *testing.T) {
	s := &slowSource{}
	bubble(t, emptyRelay(t), "/media/usb", 0, s, func(t *testing.T, i *importing, _ int64) {
		if e, unknown, err := i.estimate(t.Context(), 0, manyBytes); e != nil || unknown != "" || err != nil || s.openings > 0 {
			t.Errorf("%v %q %v, %d openings", e, unknown, err, s.openings)
		}
	})
}

// What an import that was cut has left is not read again, and another blob may be the larger one now.
func TestEstimateBehindWhatIsLeft(t *testing.T) {
	r := emptyRelay(t)
	data := make([]byte, 3<<20)
	large := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromBytes(data), Size: int64(len(data))}
	cut := func(int64) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(data[:5<<19]), brokenReader{})), nil
	}
	if err := r.store.Admit(t.Context(), large, cut, nil); err == nil {
		t.Fatal("it was not cut")
	}
	if r.store.Partial(t.Context(), large.Digest) == 0 {
		t.Fatal("nothing is left")
	}
	small := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromString("small"), Size: 1 << 20}
	i := &importing{relay: r, src: &slowSource{}, options: ImportOptions{From: "/media/usb"}, plan: &plan{
		missing: []bundle.Node{{Descriptor: large}, {Descriptor: small}},
	}}
	if node, offset, n := i.sample(t.Context(), large.Size); node.Descriptor.Digest != small.Digest || offset != 0 || n != small.Size {
		t.Errorf("%s, %d bytes from %d", node.Descriptor.Digest, n, offset)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, syscall.EIO }

// A source that an import would end with ends the dry run in the same way, and never with a number.
func TestEstimateOfABadSource(t *testing.T) {
	var damaged *bundle.DamagedError
	var missing *bundle.MissingError
	for name, c := range map[string]struct {
		source slowSource
		is     func(error) bool
	}{
		"missing":   {slowSource{fail: fs.ErrNotExist}, func(err error) bool { return errors.As(err, &missing) && missing.Item == "app" }},
		"refused":   {slowSource{fail: syscall.EACCES}, func(err error) bool { return errors.Is(err, syscall.EACCES) }},
		"too short": {slowSource{short: 9 << 20}, func(err error) bool { return errors.As(err, &damaged) && damaged.Item == "app" }},
		"bad sector": {slowSource{after: syscall.EIO}, func(err error) bool {
			return errors.Is(err, syscall.EIO) && strings.Contains(err.Error(), "item app: blob ")
		}},
	} {
		c.source.rate = 100 << 20
		t.Run(name, func(t *testing.T) {
			bubble(t, emptyRelay(t), "/media/usb", 17<<20, &c.source, func(t *testing.T, i *importing, bytes int64) {
				if e, unknown, err := i.estimate(t.Context(), bytes, 0); e != nil || unknown != "" || !c.is(err) {
					t.Errorf("%+v %q %v", e, unknown, err)
				}
			})
		})
	}
}

// A link that gives nothing now may be back by the time of the import.
func TestEstimateOfASilentSource(t *testing.T) {
	for name, s := range map[string]*slowSource{
		"no answer": {latency: time.Hour, rate: 1},
		"no bytes":  {rate: 1},
	} {
		r := emptyRelay(t)
		i := &importing{relay: r, src: s, options: ImportOptions{From: "oci://registry.example.com/a:b"}, plan: &plan{
			missing: []bundle.Node{{Descriptor: ocispec.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromString("x"), Size: 1 << 30}}},
		}}
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			e, unknown, err := i.estimate(t.Context(), 1<<30, 0)
			if e != nil || err != nil || !strings.Contains(unknown, "nothing within 10s") || time.Since(began) > sampleWait {
				t.Errorf("%s: %+v %q %v after %s", name, e, unknown, err, time.Since(began))
			}
		})
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if e, unknown, err := i.estimate(ctx, 1<<30, 0); e != nil || unknown != "" || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s, cancelled: %+v %q %v", name, e, unknown, err)
			}
		})
	}
}

// The slower one of source and disk counts.
func TestEstimateOfTheSlower(t *testing.T) {
	fast, slow := tried{16 << 20, time.Second}, tried{16 << 20, 4 * time.Second}
	for _, c := range []struct {
		read, written tried
		want          ImportEstimate
	}{
		{fast, slow, ImportEstimate{Seconds: 256, BytesPerSecond: 4 << 20, Slower: SlowerStore, Sample: 16 << 20, Written: 16 << 20}},
		{slow, fast, ImportEstimate{Seconds: 256, BytesPerSecond: 4 << 20, Slower: SlowerSource, Sample: 16 << 20, Written: 16 << 20}},
		{slow, tried{}, ImportEstimate{Seconds: 256, BytesPerSecond: 4 << 20, Slower: SlowerSource, Sample: 16 << 20}},
	} {
		if got := estimateOf(1<<30, c.read, c.written); *got != c.want {
			t.Errorf("%+v, want %+v", *got, c.want)
		}
	}
	if e := estimateOf(1<<40, tried{1, 2 * time.Second}, tried{}); e.BytesPerSecond != 1 || e.Seconds != 1<<41 {
		t.Errorf("one byte: %+v", e)
	}
}

// The disk is tried without a name and without a remainder, and only where there is room.
func TestEstimateLeavesNothing(t *testing.T) {
	r := emptyRelay(t)
	before := tree(t, r.dir)
	w, err := r.tryWrite(t.Context(), manyBytes, manyBytes)
	if err != nil || w.bytes > sampleBytes || w.bytes > 0 && w.took <= 0 {
		t.Errorf("%+v, %v", w, err)
	}
	if w.bytes == 0 {
		t.Log("this file system has no files without names")
	}
	if after := tree(t, r.dir); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if w, err := r.tryWrite(t.Context(), 1000, manyBytes); err != nil || w.bytes > 1000 {
		t.Errorf("few bytes: %+v, %v", w, err)
	}
	if w, err := r.tryWrite(t.Context(), manyBytes, 2*reserve); err != nil || w.bytes != 0 {
		t.Errorf("a full disk: %+v, %v", w, err)
	}
	r.remote = true
	if w, err := r.tryWrite(t.Context(), manyBytes, manyBytes); err != nil || w.bytes != 0 {
		t.Errorf("a bucket: %+v, %v", w, err)
	}
}

func tree(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		all = append(all, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, "\n")
}

// An origin is in the record only as far as it opens a registry, with a whole path, and never makes a record that cannot be
// read. Records from before have none.
func TestRecordOfOrigins(t *testing.T) {
	const link = "oci://registry.example.com/a:b"
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ given, want ImportOptions }{
		{ImportOptions{From: link, CAFile: "ca.pem"}, ImportOptions{From: link, CAFile: filepath.Join(dir, "ca.pem")}},
		{ImportOptions{From: link, CAFile: "/etc/ca.pem", PlainHTTP: true}, ImportOptions{From: link, CAFile: "/etc/ca.pem", PlainHTTP: true}},
		{ImportOptions{From: "/media/usb", CAFile: "ca.pem", PlainHTTP: true}, ImportOptions{From: "/media/usb"}},
	} {
		got, err := c.given.recordable()
		if err != nil || got.PlainHTTP != c.want.PlainHTTP || got.CAFile != c.want.CAFile {
			t.Errorf("%+v: %+v, %v", c.given, got, err)
		}
	}
	if o, err := (ImportOptions{From: link, CAFile: strings.Repeat("a/", 3000)}).recordable(); err == nil {
		t.Errorf("%d bytes of a path were taken", len(o.CAFile))
	}
	r, b, _, _ := stack(t)
	rec, err := r.Record(t.Context(), b.Root.Digest)
	if err != nil || rec.PlainHTTP || rec.CAFile != "" {
		t.Fatalf("%+v, %v", rec, err)
	}
	file := filepath.Join(r.dir, recordName(b.Root.Digest))
	if data, err := os.ReadFile(file); err != nil || bytes.Contains(data, []byte("plainHTTP")) || bytes.Contains(data, []byte("caFile")) {
		t.Errorf("%s, %v", data, err) // as it was before there were origins
	}
	for path, ok := range map[string]bool{"/etc/ca.pem": true, "ca.pem": false, "/" + strings.Repeat("a", maxCAFile): false} {
		rec.CAFile = path
		if err := r.writeRecord(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
		if got, err := r.Record(t.Context(), b.Root.Digest); (err == nil) != ok || ok && got.Origin() != rec.Origin() {
			t.Errorf("%.40s: %+v, %v", path, got, err)
		}
	}
}
