package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

// drivers are the stores that the contract is checked on.
func drivers(t *testing.T, check func(t *testing.T, s *Store)) {
	t.Run("filesystem", func(t *testing.T) {
		s, err := Open(filepath.Join(t.TempDir(), "new", "store"))
		if err != nil {
			t.Fatal(err)
		}
		check(t, s)
	})
	t.Run("inmemory", func(t *testing.T) { check(t, New(inmemory.New())) })
	t.Run("s3", func(t *testing.T) { check(t, newFake(t).open("")) })
	for name, open := range heavyDrivers(t) {
		t.Run(name, func(t *testing.T) { check(t, open(t)) })
	}
}

// folder is where the store has its files; empty for all but the filesystem driver.
func folder(s *Store) string {
	if f, ok := s.place.(*files); ok {
		return f.dir
	}
	return ""
}

// plant puts bytes into a store behind Admit's back.
func plant(t *testing.T, s *Store, p string, data []byte) {
	t.Helper()
	var err error
	switch at := s.place.(type) {
	case *files:
		err = at.driver.PutContent(t.Context(), p, data)
	case *bucket:
		err = at.put(t.Context(), at.key(p), data)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// plantRemains leaves bytes as an Admit does that broke off.
func plantRemains(t *testing.T, s *Store, desc ocispec.Descriptor, remains []byte) {
	t.Helper()
	if b, ok := s.place.(*bucket); ok {
		mark, err := marshalHash(desc.Digest.Algorithm().Hash())
		if err != nil {
			t.Fatal(err)
		}
		st := &state{Version: stateVersion, Digest: desc.Digest, Size: desc.Size, Chunk: b.chunkFor(desc.Size), Hash: mark, Tail: int64(len(remains))}
		head, err := st.head()
		if err != nil {
			t.Fatal(err)
		}
		remains = slices.Concat(head, remains)
	}
	plant(t, s, ingestPath(desc.Digest), remains)
}

func testBytes(n int) []byte {
	data := make([]byte, n)
	src := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)})
	_, _ = src.Read(data)
	return data
}

func describe(data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromBytes(data), Size: int64(len(data))}
}

// source gives data from any offset and remembers the offsets that it was asked for.
type source struct {
	data    []byte
	offsets []int64
}

func (s *source) open(offset int64) (io.ReadCloser, error) {
	s.offsets = append(s.offsets, offset)
	return io.NopCloser(bytes.NewReader(s.data[offset:])), nil
}

// cut gives n bytes of data and then breaks off like a pulled cable.
func cut(data []byte, n int) OpenFrom {
	return func(offset int64) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(data[offset:n]), iotest.ErrReader(io.ErrUnexpectedEOF))), nil
	}
}

func noSource(int64) (io.ReadCloser, error) {
	return nil, errors.New("the source was opened")
}

func mustHave(t *testing.T, s *Store, d digest.Digest, want []byte) {
	t.Helper()
	rc, err := s.Open(t.Context(), ocispec.Descriptor{Digest: d})
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(rc)
	if err := errors.Join(err, rc.Close()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("blob %s: %d bytes that differ from the %d admitted", d, len(got), len(want))
	}
	if size, err := s.Size(t.Context(), d); err != nil || size != int64(len(want)) {
		t.Fatalf("Size = %d, %v; want %d", size, err, len(want))
	}
	if n := s.Partial(t.Context(), d); n != 0 {
		t.Fatalf("Partial = %d after the blob was admitted", n)
	}
}

func mustNotHave(t *testing.T, s *Store, d digest.Digest) {
	t.Helper()
	if size, err := s.Size(t.Context(), d); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Size = %d, %v; want fs.ErrNotExist", size, err)
	}
	if _, err := s.Open(t.Context(), ocispec.Descriptor{Digest: d}); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Open: %v; want fs.ErrNotExist", err)
	}
}

func TestAdmit(t *testing.T) {
	drivers(t, func(t *testing.T, s *Store) {
		for _, n := range []int{0, 1, copyBuffer - 1, copyBuffer, copyBuffer + 1, 3*copyBuffer + 7} {
			data := testBytes(n)
			for _, d := range []digest.Digest{digest.FromBytes(data), digest.SHA512.FromBytes(data)} {
				desc := ocispec.Descriptor{Digest: d, Size: int64(n)}
				mustNotHave(t, s, d)
				var sum int64
				if err := s.Admit(t.Context(), desc, (&source{data: data}).open, func(n int64) { sum += n }); err != nil {
					t.Fatalf("%d bytes: %v", n, err)
				}
				mustHave(t, s, d, data)
				if err := s.Admit(t.Context(), desc, noSource, func(n int64) { sum += n }); err != nil {
					t.Fatalf("a second Admit: %v", err)
				}
				if sum != 2*int64(n) {
					t.Fatalf("progress adds up to %d, want %d for each Admit", sum, n)
				}
			}
		}
	})
}

func TestAdmitRefusesOtherBytes(t *testing.T) {
	data := testBytes(copyBuffer + 100)
	flipped := slices.Clone(data)
	flipped[copyBuffer+50] ^= 1
	cases := []struct {
		name    string
		data    []byte
		size    int64 // DamagedError.Size
		digests bool  // DamagedError.Digest is set
	}{
		{"one bit flipped", flipped, int64(len(data)), true},
		{"too short", data[:len(data)-1], int64(len(data)) - 1, false},
		{"empty", nil, 0, false},
		{"too long", append(slices.Clone(data), 0), int64(len(data)) + 1, false},
	}
	drivers(t, func(t *testing.T, s *Store) {
		for _, c := range cases {
			desc := describe(data)
			err := s.Admit(t.Context(), desc, (&source{data: c.data}).open, nil)
			var damaged *bundle.DamagedError
			if !errors.As(err, &damaged) {
				t.Fatalf("%s: %v; want *bundle.DamagedError", c.name, err)
			}
			if damaged.Size != c.size || (damaged.Digest != "") != c.digests || damaged.Descriptor.Digest != desc.Digest {
				t.Errorf("%s: %+v", c.name, damaged)
			}
			mustNotHave(t, s, desc.Digest)
			if n := s.Partial(t.Context(), desc.Digest); n != 0 {
				t.Errorf("%s: %d damaged bytes were kept", c.name, n)
			}
		}
	})
}

func TestAdmitReadsAtMostOneByteTooMany(t *testing.T) {
	drivers(t, func(t *testing.T, s *Store) {
		const size = 1000
		endless := &counter{}
		desc := ocispec.Descriptor{Digest: digest.FromString("x"), Size: size}
		err := s.Admit(t.Context(), desc, func(int64) (io.ReadCloser, error) { return io.NopCloser(endless), nil }, nil)
		var damaged *bundle.DamagedError
		if !errors.As(err, &damaged) || endless.n > size+1 {
			t.Fatalf("%v after %d bytes; want *bundle.DamagedError after at most %d", err, endless.n, size+1)
		}
	})
}

// counter never ends and counts what it was asked for.
type counter struct{ n int }

func (c *counter) Read(p []byte) (int, error) {
	c.n += len(p)
	return len(p), nil
}

func TestAdmitContinues(t *testing.T) {
	data := testBytes(2*copyBuffer + 11)
	desc := describe(data)
	drivers(t, func(t *testing.T, s *Store) {
		for at := range 3 {
			n := []int{1, copyBuffer, len(data) - 1}[at]
			if err := s.Admit(t.Context(), desc, cut(data, n), nil); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("a source that breaks off: %v", err)
			}
			mustNotHave(t, s, desc.Digest)
			if got := s.Partial(t.Context(), desc.Digest); got != int64(n) {
				t.Fatalf("Partial = %d, want %d", got, n)
			}
		}
		src := &source{data: data}
		if err := s.Admit(t.Context(), desc, src.open, nil); err != nil {
			t.Fatal(err)
		}
		if want := []int64{int64(len(data)) - 1}; !slices.Equal(src.offsets, want) {
			t.Errorf("opened at %v, want %v", src.offsets, want)
		}
		mustHave(t, s, desc.Digest, data)
	})
}

func TestAdmitWithoutRange(t *testing.T) {
	data := testBytes(copyBuffer * 2)
	desc := describe(data)
	drivers(t, func(t *testing.T, s *Store) {
		if err := s.Admit(t.Context(), desc, cut(data, 1000), nil); err == nil {
			t.Fatal("a source that breaks off was admitted")
		}
		var offsets []int64
		err := s.Admit(t.Context(), desc, func(offset int64) (io.ReadCloser, error) {
			offsets = append(offsets, offset)
			if offset > 0 {
				return nil, fmt.Errorf("tape drive: %w", ErrNoRange)
			}
			return io.NopCloser(bytes.NewReader(data)), nil
		}, nil)
		if err != nil || !slices.Equal(offsets, []int64{1000, 0}) {
			t.Fatalf("%v, opened at %v", err, offsets)
		}
		mustHave(t, s, desc.Digest, data)
	})
}

// Callers add progress up over all their tries.
func TestProgressAddsUp(t *testing.T) {
	data := testBytes(3*copyBuffer + 1)
	desc := describe(data)
	bad := slices.Clone(data)
	bad[len(bad)-1]++ // behind whatever an earlier try left
	refuse := func(offset int64) (io.ReadCloser, error) {
		if offset > 0 {
			return nil, ErrNoRange
		}
		return (&source{data: bad}).open(0)
	}
	drivers(t, func(t *testing.T, s *Store) {
		var sum, most int64
		count := func(n int64) {
			sum += n
			most = max(most, sum)
		}
		broken := cut(data, copyBuffer+9)
		for i, open := range []OpenFrom{broken, broken, (&source{data: bad}).open, broken, refuse} {
			if err := s.Admit(t.Context(), desc, open, count); err == nil || sum != 0 {
				t.Errorf("try %d: %v, progress adds up to %d, want 0", i, err, sum)
			}
		}
		if err := s.Admit(t.Context(), desc, cut(data, copyBuffer+9), count); err == nil {
			t.Error("a source that breaks off was admitted")
		}
		if err := s.Admit(t.Context(), desc, (&source{data: data}).open, count); err != nil || sum != desc.Size || most != desc.Size {
			t.Errorf("%v, progress adds up to %d and reached %d, want %d", err, sum, most, desc.Size)
		}
	})
}

// A power cut can leave a file of any length with any bytes; that must neither be admitted nor be blamed on the source.
func TestAdmitOverTornRemains(t *testing.T) {
	data := testBytes(copyBuffer + 5)
	desc := describe(data)
	torn := slices.Clone(data)
	clear(torn[100:200])
	for name, remains := range map[string][]byte{
		"zeroes inside":     torn[:copyBuffer],
		"whole, but zeroes": torn,
		"longer":            append(slices.Clone(data), 1, 2, 3),
		"whole and good":    data,
	} {
		t.Run(name, func(t *testing.T) {
			drivers(t, func(t *testing.T, s *Store) {
				plantRemains(t, s, desc, remains)
				src := &source{data: data}
				if err := s.Admit(t.Context(), desc, src.open, nil); err != nil {
					t.Fatal(err)
				}
				mustHave(t, s, desc.Digest, data)
				if name == "whole and good" && len(src.offsets) != 0 {
					t.Errorf("opened at %v although nothing was missing", src.offsets)
				}
			})
		})
	}
}

func TestAdmitRefusesDamageAfterRemains(t *testing.T) {
	data := testBytes(copyBuffer + 5)
	bad := slices.Clone(data)
	bad[len(bad)-1]++
	drivers(t, func(t *testing.T, s *Store) {
		if err := s.Admit(t.Context(), describe(data), cut(data, 77), nil); err == nil {
			t.Fatal("a source that breaks off was admitted")
		}
		src := &source{data: bad}
		var damaged *bundle.DamagedError
		if err := s.Admit(t.Context(), describe(data), src.open, nil); !errors.As(err, &damaged) {
			t.Fatalf("%v; want *bundle.DamagedError", err)
		}
		if !slices.Equal(src.offsets, []int64{77, 0}) || s.Partial(t.Context(), describe(data).Digest) != 0 {
			t.Fatalf("opened at %v, %d bytes kept", src.offsets, s.Partial(t.Context(), describe(data).Digest))
		}
		mustNotHave(t, s, describe(data).Digest)
	})
}

func TestAdmitReplacesWrongSize(t *testing.T) {
	data := testBytes(5000)
	drivers(t, func(t *testing.T, s *Store) {
		desc := describe(data)
		plant(t, s, blobPath(desc.Digest), data[:4000])
		if err := s.Admit(t.Context(), desc, (&source{data: data}).open, nil); err != nil {
			t.Fatal(err)
		}
		mustHave(t, s, desc.Digest, data)
	})
}

func TestAdmitCancelled(t *testing.T) {
	data := testBytes(4 * copyBuffer)
	drivers(t, func(t *testing.T, s *Store) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		err := s.Admit(ctx, describe(data), (&source{data: data}).open, func(n int64) {
			if n >= copyBuffer {
				cancel()
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("%v; want context.Canceled", err)
		}
		if n := s.Partial(t.Context(), describe(data).Digest); n != copyBuffer {
			t.Errorf("Partial = %d, want %d", n, copyBuffer)
		}
	})
}

func TestAdmitWaitsCancellably(t *testing.T) {
	data := testBytes(100)
	drivers(t, func(t *testing.T, s *Store) {
		unlock, err := s.lock(t.Context(), describe(data).Digest)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Admit(ctx, describe(data), noSource, nil); !errors.Is(err, context.Canceled) {
			t.Fatalf("%v; want context.Canceled", err)
		}
		unlock()
		if err := s.Admit(t.Context(), describe(data), (&source{data: data}).open, nil); err != nil {
			t.Fatal(err)
		}
		if n := len(s.busy.held); n != 0 {
			t.Errorf("%d locks are still remembered", n)
		}
	})
}

func TestAdmitRefusesBadDescriptors(t *testing.T) {
	good := describe(testBytes(1))
	drivers(t, func(t *testing.T, s *Store) {
		for _, desc := range []ocispec.Descriptor{
			{},
			{Digest: "sha256:../../../../etc/passwd", Size: 1},
			{Digest: "sha256:ABCD", Size: 1},
			{Digest: "md5:d41d8cd98f00b204e9800998ecf8427e", Size: 1},
			{Digest: digest.SHA384.FromString(""), Size: 0},
			{Digest: good.Digest, Size: -1},
		} {
			if err := s.Admit(t.Context(), desc, noSource, nil); err == nil {
				t.Errorf("%+v was admitted", desc)
			}
			if _, err := s.OpenBlob(t.Context(), desc.Digest); err == nil {
				t.Errorf("%s was opened", desc.Digest)
			}
		}
	})
}

func TestAdmitConcurrently(t *testing.T) {
	data := testBytes(8 * copyBuffer)
	drivers(t, func(t *testing.T, s *Store) {
		stores := []*Store{s}
		if dir := folder(s); dir != "" { // a second Store on the folder shares no memory with the first, like another process
			other, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			stores = append(stores, other)
		}
		var opened atomic.Int32
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				err := stores[i%len(stores)].Admit(t.Context(), describe(data), func(offset int64) (io.ReadCloser, error) {
					opened.Add(1)
					return (&source{data: data}).open(offset)
				}, nil)
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if opened.Load() != 1 {
			t.Errorf("the source was opened %d times, want 1", opened.Load())
		}
		mustHave(t, s, describe(data).Digest, data)
	})
}

func TestWalk(t *testing.T) {
	drivers(t, func(t *testing.T, s *Store) {
		want := map[digest.Digest]int64{}
		for i := range 50 {
			data := testBytes(i)
			for _, d := range []digest.Digest{digest.FromBytes(data), digest.SHA512.FromBytes(data)} {
				want[d] = int64(i)
				if err := s.Admit(t.Context(), ocispec.Descriptor{Digest: d, Size: int64(i)}, (&source{data: data}).open, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := s.Admit(t.Context(), describe(testBytes(99)), cut(testBytes(99), 5), nil); err == nil {
			t.Fatal("a source that breaks off was admitted")
		}
		plant(t, s, "/blobs/sha256/ab/notes.txt", []byte("x"))
		var last digest.Digest
		err := s.Walk(t.Context(), func(d digest.Digest, size int64) error {
			if w, ok := want[d]; !ok || w != size || d <= last {
				t.Errorf("Walk gave %s with %d bytes after %s", d, size, last)
			}
			delete(want, d)
			last = d
			return nil
		})
		if err != nil || len(want) != 0 {
			t.Errorf("Walk: %v; missing %v", err, want)
		}
		stop := errors.New("enough")
		if err := s.Walk(t.Context(), func(digest.Digest, int64) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("Walk: %v; want the error of fn", err)
		}
	})
	empty := New(inmemory.New())
	if err := empty.Walk(t.Context(), func(digest.Digest, int64) error { return errors.New("called") }); err != nil {
		t.Errorf("Walk of an empty store: %v", err)
	}
}

func TestOpenBlobSeeks(t *testing.T) {
	data := testBytes(100_000)
	drivers(t, func(t *testing.T, s *Store) {
		if err := s.Admit(t.Context(), describe(data), (&source{data: data}).open, nil); err != nil {
			t.Fatal(err)
		}
		b, err := s.OpenBlob(t.Context(), describe(data).Digest)
		if err != nil {
			t.Fatal(err)
		}
		if _, isFile := b.ReadSeekCloser.(*os.File); isFile != (folder(s) != "") {
			t.Errorf("ReadSeekCloser is a %T", b.ReadSeekCloser)
		}
		if b.Size != int64(len(data)) {
			t.Errorf("Size = %d, want %d", b.Size, len(data))
		}
		rnd := rand.New(rand.NewPCG(1, 2))
		twin := bytes.NewReader(data)
		for range 200 {
			whence := rnd.IntN(3)
			offset := []int64{rnd.Int64N(120_000), rnd.Int64N(40_000) - 20_000, rnd.Int64N(120_000) - 110_000}[whence]
			wantPos, wantErr := twin.Seek(offset, whence)
			pos, err := b.Seek(offset, whence)
			if (err != nil) != (wantErr != nil) || err == nil && pos != wantPos {
				t.Fatalf("Seek(%d, %d) = %d, %v; want %d, %v", offset, whence, pos, err, wantPos, wantErr)
			}
			want, got := make([]byte, rnd.IntN(5000)), make([]byte, 5000)
			wantN, _ := io.ReadFull(twin, want)
			n, _ := io.ReadFull(b, got[:len(want)])
			if n != wantN || !bytes.Equal(got[:n], want[:n]) {
				t.Fatalf("read %d bytes, want %d equal ones", n, wantN)
			}
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Read(make([]byte, 1)); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("Read of a closed blob: %v", err)
		}
	})
}

func TestOpenSharesAFolder(t *testing.T) {
	dir := t.TempDir()
	first, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	data := testBytes(10)
	if err := first.Admit(t.Context(), describe(data), (&source{data: data}).open, nil); err != nil {
		t.Fatal(err)
	}
	second, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	mustHave(t, second, describe(data).Digest, data)
	d := describe(data).Digest
	if _, err := os.Stat(filepath.Join(dir, "blobs", "sha256", d.Encoded()[:2], d.Encoded())); err != nil {
		t.Errorf("layout: %v", err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "ingest"))
	if err != nil || len(left) != 0 {
		t.Errorf("ingest holds %v, %v", left, err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file); err == nil {
		t.Error("a file was opened as a store")
	}
}
