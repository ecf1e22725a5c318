package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"runtime"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

func benchServer(b *testing.B, size int64) (*httptest.Server, string) {
	f := newFixture(b)
	img := must(random.Image(size, 1))(b)
	desc := f.putImage(img)
	v := f.view(f.active(f.release("1", item("a", bundle.KindImage, desc, "ghcr.io/acme/a", "v1"))))
	return f.serve(v), must(must(img.Layers())(b)[0].Digest())(b).String()
}

// BenchmarkManifestByTag is one client on one connection that does as little as a client can. Beside it stands a handler
// that sends the same bytes and does nothing else.
func BenchmarkManifestByTag(b *testing.B) {
	const path = "/v2/acme/a/manifests/v1?ns=ghcr.io"
	srv, _ := benchServer(b, 1000)
	resp := must(http.Get(srv.URL + path))(b)
	body := must(io.ReadAll(resp.Body))(b)
	resp.Body.Close()
	bare := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		maps.Copy(w.Header(), resp.Header)
		_, _ = w.Write(body)
	}))
	defer bare.Close()
	b.Run("registry", func(b *testing.B) { benchRequests(b, srv, path) })
	b.Run("net-http-alone", func(b *testing.B) { benchRequests(b, bare, path) })
}

func benchRequests(b *testing.B, srv *httptest.Server, path string) {
	conn := must(net.Dial("tcp", hostOf(srv)))(b)
	defer conn.Close()
	request := []byte("GET " + path + " HTTP/1.1\r\nHost: relay.lan\r\n\r\n")
	exchange := func(response []byte) {
		if _, err := conn.Write(request); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(conn, response); err != nil {
			b.Fatal(err)
		}
	}
	first := must(http.Get(srv.URL + path))(b)
	raw := must(httputil.DumpResponse(first, true))(b) // all responses have this length
	first.Body.Close()
	exchange(raw)
	b.ReportAllocs()
	for b.Loop() {
		exchange(raw)
	}
	if !bytes.HasPrefix(raw, []byte("HTTP/1.1 200 OK\r\n")) || raw[len(raw)-1] != '}' {
		b.Fatalf("%q", raw)
	}
}

// nothing is a response that costs nothing.
type nothing struct{ header http.Header }

func (n nothing) Header() http.Header         { return n.header }
func (n nothing) Write(p []byte) (int, error) { return len(p), nil }
func (n nothing) WriteHeader(int)             {}

// BenchmarkManifestHandler is the share of this package in BenchmarkManifestByTag.
func BenchmarkManifestHandler(b *testing.B) {
	f := newFixture(b)
	desc := f.putImage(f.image(1))
	v := f.view(f.active(f.release("1", item("a", bundle.KindImage, desc, "ghcr.io/acme/a", "v1"))))
	h := f.handler()
	for name, target := range map[string]string{
		"tag-and-ns": "/v2/acme/a/manifests/v1?ns=ghcr.io", "tag": "/v2/ghcr.io/acme/a/manifests/v1", "digest": "/v2/ghcr.io/acme/a/manifests/" + desc.Digest.String(),
	} {
		b.Run(name, func(b *testing.B) {
			req := httptest.NewRequest(http.MethodGet, target, nil)
			w := nothing{make(http.Header)}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.header)
				h.ServeView(w, req, v)
			}
			if w.header.Get("Docker-Content-Digest") != desc.Digest.String() {
				b.Fatal(w.header)
			}
		})
	}
}

func pull(ctx context.Context, url string) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("status %s", resp.Status)
	}
	return io.Copy(io.Discard, resp.Body)
}

func BenchmarkBlob(b *testing.B) {
	for _, size := range []int64{16 << 10, 64 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			srv, layer := benchServer(b, size)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				if n, err := pull(b.Context(), srv.URL+"/v2/ghcr.io/acme/a/blobs/"+layer); err != nil || n < size {
					b.Fatal(n, err)
				}
			}
		})
	}
}

// syntheticParts are the files of releases which all have the same images, of which each brings a part anew: together
// blobs different blobs.
func syntheticParts(tb testing.TB, releases, blobs int) [][]byte {
	tb.Helper()
	const images, layers = 60, 12
	fresh := (blobs - images*layers) / (releases - 1) // per release
	of := func(kind string, n int) digest.Digest {
		var text [8]byte
		binary.LittleEndian.PutUint64(text[:], uint64(n))
		return digest.NewDigestFromBytes(digest.SHA256, sum256(append([]byte(kind), text[:]...)))
	}
	layer := make([]int, images*layers)
	next := 0
	for i := range layer {
		layer[i], next = next, next+1
	}
	var files [][]byte
	for release := range releases {
		d := &describer{sizes: map[digest.Digest]int64{}, documents: map[digest.Digest]*document{}, repos: map[string]*described{}}
		d.bundle = &bundle.Bundle{Root: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: of("bundle", release), Size: 99},
			Lock: &bundle.Lock{Name: "robot-stack", Version: fmt.Sprint("v1.", release, ".0")}}
		for i := range fresh * min(release, 1) {
			layer[(release*fresh+i)%len(layer)], next = next, next+1
		}
		add := func(repo *described, m digest.Digest, doc *document) {
			repo.manifests[m], d.documents[m], d.sizes[m] = ocispec.MediaTypeImageManifest, doc, 1234
			for _, l := range doc.Layers {
				repo.blobs[l.Digest], d.sizes[l.Digest] = struct{}{}, 1_000_000
			}
		}
		for image := range images {
			repo := d.repository(fmt.Sprintf("ghcr.io/acme/robot-%d", image))
			doc := new(document)
			for _, n := range layer[image*layers : (image+1)*layers] {
				doc.Layers = append(doc.Layers, ocispec.Descriptor{Digest: of("layer", n)})
			}
			m := of("image", layer[image*layers]*100+image)
			add(repo, m, doc)
			repo.tags[d.bundle.Lock.Version], repo.tags["latest"] = m, m
			for i, kind := range []string{"application/vnd.dev.sigstore.bundle.v0.3+json", "application/spdx+json"} {
				add(repo, of(kind, int(of("x", release*images+image)[10])), &document{ArtifactType: kind, Subject: &ocispec.Descriptor{Digest: m},
					Annotations: map[string]string{"org.opencontainers.image.created": "2025-01-01T00:00:00Z"},
					Layers:      []ocispec.Descriptor{{Digest: of("referrer", image*2+i)}}})
			}
		}
		files = append(files, must(d.part().MarshalBinary())(tb))
	}
	return files
}

func sum256(data []byte) []byte {
	s := sha256.Sum256(data)
	return s[:]
}

func viewOf(tb testing.TB, files [][]byte) *View {
	releases := make([]Release, len(files))
	for i, data := range files {
		releases[i] = Release{Part: new(Part), Active: i == len(files)-1}
		if err := releases[i].Part.UnmarshalBinary(data); err != nil {
			tb.Fatal(err)
		}
	}
	return must(NewView(releases))(tb)
}

// BenchmarkStart is all that a relay computes at its start for fifty releases with twenty thousand blobs. The memory that
// is held afterwards is reported beside it.
func BenchmarkStart(b *testing.B) {
	files := syntheticParts(b, 50, 20_000)
	total := 0
	distinct := make(map[digest.Digest]int64)
	for _, data := range files {
		total += len(data)
		p := new(Part)
		if err := p.UnmarshalBinary(data); err != nil {
			b.Fatal(err)
		}
		maps.Insert(distinct, p.Blobs())
	}
	count := len(distinct)
	distinct = nil
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	v := viewOf(b, files)
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportAllocs()
	for b.Loop() {
		v = viewOf(b, files)
	}
	b.ReportMetric(float64(count), "blobs")
	b.ReportMetric(float64(total), "file-B")
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc), "held-B")
	if names := v.Repositories(); len(names) != 60 || !slices.IsSorted(names) {
		b.Fatal(names)
	}
}
