package media

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/progress"
	"github.com/plimsoll/plimsoll/internal/testbundle"
	"github.com/plimsoll/plimsoll/internal/upstream"
)

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// written gives a bundle and the folder it is written in.
func written(t testing.TB, o testbundle.Options) (*testbundle.Bundle, string) {
	t.Helper()
	b, dir := testbundle.New(t, o), filepath.Join(t.TempDir(), "bundle")
	b.Write(t, dir)
	return b, dir
}

func registryHost(t testing.TB) string {
	t.Helper()
	r := must(upstream.Start(context.WithoutCancel(t.Context()), t.TempDir()))(t)
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r.Host()
}

var plainHTTP = Options{PlainHTTP: true}

func source(t testing.TB, ref string, o Options) Source {
	t.Helper()
	s := must(OpenSource(t.Context(), ref, o))(t)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func sink(t testing.TB, ref string, o Options) Sink {
	t.Helper()
	return must(OpenSink(t.Context(), ref, o))(t)
}

// carry copies a bundle and closes the sink.
func carry(ctx context.Context, t testing.TB, from, to string) error {
	t.Helper()
	return carryWith(ctx, t, from, to, plainHTTP)
}

func carryWith(ctx context.Context, t testing.TB, from, to string, o Options) error {
	t.Helper()
	s := sink(t, to, o)
	err := Copy(ctx, s, source(t, from, o), nil, 0)
	return errors.Join(err, s.Close())
}

// checkSame reads everything of b, and what stands beside it, back from ref.
func checkSame(t testing.TB, b *testbundle.Bundle, ref string) {
	t.Helper()
	src := source(t, ref, plainHTTP)
	root := must(src.Root(t.Context()))(t)
	if root.Digest != b.Root.Digest || root.Size != b.Root.Size || root.MediaType != b.Root.MediaType || root.Annotations != nil {
		t.Fatalf("%s: root %+v, want %+v", ref, root, b.Root)
	}
	loaded := must(bundle.Load(t.Context(), src, root))(t)
	seen := make(map[digest.Digest]bool)
	visit := func(n bundle.Node) error {
		seen[n.Descriptor.Digest] = true
		data, err := bundle.ReadBlob(t.Context(), src, n.Descriptor, 64<<20)
		if err == nil && !bytes.Equal(data, b.Data(n.Descriptor.Digest)) {
			t.Errorf("%s: blob %s differs", ref, n.Descriptor.Digest)
		}
		return err
	}
	if err := loaded.Walk(t.Context(), src, visit); err != nil {
		t.Fatalf("%s: %v", ref, err)
	}
	refs := must(src.Referrers(t.Context(), root.Digest))(t)
	if len(refs) != len(b.Beside) {
		t.Fatalf("%s: %d beside the bundle, want %d: %+v", ref, len(refs), len(b.Beside), refs)
	}
	for i, r := range refs {
		if r.Digest != b.Beside[i].Digest || r.Tag != b.Beside[i].Tag || r.Size != b.Beside[i].Size || r.MediaType != b.Beside[i].MediaType {
			t.Errorf("%s: beside %d: %+v, want %+v", ref, i, r, b.Beside[i])
		}
		if err := bundle.Walk(t.Context(), src, r.Descriptor, visit); err != nil {
			t.Fatalf("%s: %v", ref, err)
		}
	}
	if want := "application/vnd.dev.sigstore.bundle.v0.3+json"; refs[0].ArtifactType != want {
		t.Errorf("%s: artifact type %q, want %q", ref, refs[0].ArtifactType, want)
	}
	for _, blob := range b.Blobs {
		if !seen[blob.Digest] {
			t.Errorf("%s: blob %s (%s) did not arrive", ref, blob.Digest, blob.MediaType)
		}
	}
}

func TestCopyAlongEveryRoad(t *testing.T) {
	b, from := written(t, testbundle.Options{Padding: bytes.Repeat([]byte("0123456789abcdef"), 200_000)}) // above smallBlob
	checkSame(t, b, from)
	dir := t.TempDir()
	host := registryHost(t)
	// Each road starts where the one before ended, so that it is read and written.
	road := []string{from, dir + "/a.tar", "oci://" + host + "/releases/robot-stack", dir + "/folder", dir + "/b.tar", "oci://" + host + "/second:mine", dir + "/last/"}
	for i := 1; i < len(road); i++ {
		read := func(j int) string {
			if road[j] == road[2] {
				return road[j] + ":" + b.Tag
			}
			return road[j]
		}
		if err := carry(t.Context(), t, read(i-1), road[i]); err != nil {
			t.Fatalf("%s → %s: %v", road[i-1], road[i], err)
		}
		checkSame(t, b, read(i))
	}
	for _, ref := range []string{
		road[2] + "@" + b.Root.Digest.String(), road[2] + ":" + b.Tag + "@" + b.Root.Digest.String(),
		dir + "/a.tar:" + b.Tag, dir + "/folder:" + b.Tag, dir + "/folder@" + b.Root.Digest.String(),
	} {
		checkSame(t, b, ref)
	}
	// The same bundle gives the same bytes, wherever it came from.
	if !bytes.Equal(must(os.ReadFile(dir+"/a.tar"))(t), must(os.ReadFile(dir+"/b.tar"))(t)) {
		t.Error("two copies to a tar differ")
	}
	if err := carry(t.Context(), t, from, dir+"/direct"); err != nil {
		t.Fatal(err)
	}
	one, other := must(os.ReadFile(dir+"/folder/index.json"))(t), must(os.ReadFile(dir+"/direct/index.json"))(t)
	if !bytes.Equal(one, other) {
		t.Errorf("index.json by two roads:\n%s\n%s", one, other)
	}
	entries := must(parseIndexFile(one))(t)
	if len(entries) != 3 || entries[0].ArtifactType != bundle.ArtifactTypeBundle || entries[1].ArtifactType != "application/vnd.dev.sigstore.bundle.v0.3+json" {
		t.Errorf("index.json: %+v", entries)
	}
	if names := dirNames(t, dir+"/folder"); !slices.Equal(names, []string{"blobs", "index.json", "oci-layout"}) {
		t.Errorf("the folder has %q", names)
	}
	if names := dirNames(t, dir); !slices.Equal(names, []string{"a.tar", "b.tar", "direct", "folder", "last"}) {
		t.Errorf("temporary files are left: %q", names)
	}
	if fi := must(os.Stat(dir + "/a.tar"))(t); fi.Mode().Perm() != 0o644 {
		t.Errorf("the tar has mode %o", fi.Mode().Perm())
	}
}

func dirNames(t testing.TB, dir string) []string {
	t.Helper()
	var names []string
	for _, e := range must(os.ReadDir(dir))(t) {
		names = append(names, e.Name())
	}
	return names
}

// counting counts what is read of a source.
type counting struct {
	Source
	opened map[digest.Digest]int
}

func (c *counting) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	c.opened[desc.Digest]++
	return c.Source.Open(ctx, desc)
}

func TestCopySkipsWhatIsThere(t *testing.T) {
	first, from := written(t, testbundle.Options{})
	second, from2 := written(t, testbundle.Options{Version: "v1.5.5"})
	for _, to := range []string{filepath.Join(t.TempDir(), "out"), "oci://" + registryHost(t) + "/robot-stack"} {
		if err := carry(t.Context(), t, from, to); err != nil {
			t.Fatal(err)
		}
		s := sink(t, to, plainHTTP)
		src := &counting{Source: source(t, from2, plainHTTP), opened: make(map[digest.Digest]int)}
		var last progress.Event
		if err := Copy(t.Context(), s, src, func(e progress.Event) { last = e }, 1); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if src.opened[first.Layer.Digest] > 0 {
			t.Error("a layer was copied that the destination had")
		}
		if !last.End || last.Stage != "copy" || last.Done != last.Total || last.Total == 0 {
			t.Errorf("last event %+v", last)
		}
		checkSame(t, first, to+":"+first.Tag)
		checkSame(t, second, to+":"+second.Tag)
	}
}

func TestProgressNeverExceedsTotal(t *testing.T) {
	_, from := written(t, testbundle.Options{})
	s := sink(t, filepath.Join(t.TempDir(), "out"), Options{})
	var done, total, events int64
	err := Copy(t.Context(), s, source(t, from, Options{}), func(e progress.Event) {
		events++
		if e.Done < done || e.Done > e.Total {
			t.Errorf("event %+v after %d", e, done)
		}
		done, total = e.Done, e.Total
	}, 2)
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	if done != total || events < 10 {
		t.Errorf("%d of %d bytes in %d events", done, total, events)
	}
}

// TestSinkContract is what every sink promises.
func TestSinkContract(t *testing.T) {
	host := registryHost(t)
	for name, ref := range map[string]string{
		"folder": filepath.Join(t.TempDir(), "out"), "tar": filepath.Join(t.TempDir(), "out.tar"), "registry": "oci://" + host + "/a/b",
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			s := sink(t, ref, plainHTTP)
			small := []byte("some bytes of a layer")
			big := bytes.Repeat([]byte("big"), smallBlob)
			for _, data := range [][]byte{small, big} {
				desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(data), Size: int64(len(data))}
				checkAbsent(t, s, desc)
				for what, bad := range map[string][]byte{
					"flipped": append(slices.Clone(data[:len(data)-1]), data[len(data)-1]^1), "short": data[:len(data)-1], "long": append(slices.Clone(data), 0), "none": nil,
				} {
					var damaged *bundle.DamagedError
					if err := s.Put(ctx, desc, bytes.NewReader(bad)); !errors.As(err, &damaged) {
						t.Fatalf("%s: %v, want a DamagedError", what, err)
					}
					checkAbsent(t, s, desc)
				}
				broken := errors.New("the cable")
				if err := s.Put(ctx, desc, io.MultiReader(bytes.NewReader(data[:5]), &failing{broken})); !errors.Is(err, broken) {
					t.Fatalf("%v, want %v", err, broken)
				}
				checkAbsent(t, s, desc)
				if err := s.Put(ctx, desc, struct{ io.Reader }{bytes.NewReader(data)}); err != nil {
					t.Fatal(err)
				}
				if has := must(s.Has(ctx, desc))(t); !has {
					t.Fatal("a blob that was Put is not there")
				}
				if got := must(bundle.ReadBlob(ctx, s, desc, 64<<20))(t); !bytes.Equal(got, data) {
					t.Fatal("it differs")
				}
				if err := s.Put(ctx, desc, bytes.NewReader(data)); err != nil {
					t.Fatalf("a second Put: %v", err)
				}
				shorter := desc
				shorter.Size--
				if has := must(s.Has(ctx, shorter))(t); has {
					t.Error("a blob of another size is there")
				}
			}
			absent := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString("absent"), Size: 6}
			if err := s.Commit(ctx, absent, "v1", nil); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Commit of what is not there: %v", err)
			}
			for _, bad := range []ocispec.Descriptor{
				{MediaType: "a/b", Digest: "sha256:../../../../etc/passwd", Size: 1}, {MediaType: "a/b", Digest: "", Size: 1},
				{MediaType: "a/b", Digest: digest.FromString(""), Size: -1}, {MediaType: "", Digest: digest.FromString(""), Size: 0},
			} {
				_, oerr := s.Open(ctx, bad)
				_, herr := s.Has(ctx, bad)
				if perr := s.Put(ctx, bad, bytes.NewReader(nil)); perr == nil || oerr == nil || herr == nil {
					t.Errorf("%+v: Put %v, Open %v, Has %v", bad, perr, oerr, herr)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			var bad *RefError
			src, err := OpenSource(ctx, ref, plainHTTP)
			if err == nil {
				_, err = src.Root(ctx)
			}
			if !errors.As(err, &bad) {
				t.Errorf("without Commit it opens: %v", err)
			}
		})
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

func checkAbsent(t testing.TB, s Sink, desc ocispec.Descriptor) {
	t.Helper()
	if has := must(s.Has(t.Context(), desc))(t); has {
		t.Fatal("a blob is there that was not Put")
	}
	if _, err := s.Open(t.Context(), desc); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Open: %v, want fs.ErrNotExist", err)
	}
}

func TestEmptyBlob(t *testing.T) {
	desc := ocispec.Descriptor{MediaType: "text/plain", Digest: digest.FromBytes(nil)}
	for _, ref := range []string{filepath.Join(t.TempDir(), "out"), filepath.Join(t.TempDir(), "out.tar"), "oci://" + registryHost(t) + "/a"} {
		s := sink(t, ref, plainHTTP)
		if err := s.Put(t.Context(), desc, bytes.NewReader(nil)); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
		if data := must(bundle.ReadBlob(t.Context(), s, desc, 1))(t); len(data) != 0 {
			t.Errorf("%s: %q", ref, data)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
