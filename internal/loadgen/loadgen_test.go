package loadgen

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fakeRegistry has one image under a tag: an index, a manifest, a config and layers.
type fakeRegistry struct {
	content map[string][]byte // by path
	bytes   int64             // that one robot pulls
	mu      sync.Mutex
	asked   map[string]int // by method, address and path
}

func newFakeRegistry(t *testing.T, layers ...int) *fakeRegistry {
	t.Helper()
	f := &fakeRegistry{content: make(map[string][]byte), asked: make(map[string]int)}
	put := func(kind string, data []byte) ocispec.Descriptor {
		desc := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
		f.content["/v2/app/"+kind+"/"+desc.Digest.String()] = data
		f.bytes += desc.Size
		return desc
	}
	object := func(v any) []byte {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	manifest := ocispec.Manifest{Config: put("blobs", []byte("{}"))}
	for i, size := range layers {
		manifest.Layers = append(manifest.Layers, put("blobs", bytes.Repeat([]byte{byte('a' + i)}, size)))
	}
	desc := put("manifests", object(manifest))
	desc.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	other := ocispec.Descriptor{Digest: digest.FromString("other"), Platform: &ocispec.Platform{OS: "linux", Architecture: "arm64"}}
	index := object(ocispec.Index{Manifests: []ocispec.Descriptor{other, desc}})
	f.content["/v2/app/manifests/v1"] = index
	f.bytes += int64(len(index))
	return f
}

func (f *fakeRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host, _, _ := strings.Cut(r.RemoteAddr, ":")
	f.mu.Lock()
	f.asked[r.Method+" "+host+" "+r.URL.Path]++
	f.mu.Unlock()
	data, ok := f.content[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(data)))
	_, _ = w.Write(data)
}

func run(t *testing.T, server *httptest.Server, plan Plan) *Result {
	t.Helper()
	plan.Address = server.Listener.Addr().String()
	if server.TLS != nil {
		plan.CAFile = filepath.Join(t.TempDir(), "ca.crt")
		data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
		if err := os.WriteFile(plan.CAFile, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	res, err := Run(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func pull(robots int) Plan {
	return Plan{Pull: &Pull{Robots: robots, Parallel: 3, Repository: "app", Tag: "v1"}}
}

func TestRobotsPullEverythingOnce(t *testing.T) {
	for name, start := range map[string]func(http.Handler) *httptest.Server{"plain": httptest.NewServer, "TLS": httptest.NewTLSServer} {
		t.Run(name, func(t *testing.T) {
			f := newFakeRegistry(t, 1<<20, 300_000, 5, 0)
			server := start(f)
			defer server.Close()
			res := run(t, server, pull(4))
			if res.Errors != 0 || res.Bytes != 4*f.bytes || len(res.Durations) != 4 {
				t.Errorf("%d bytes of %d, %d robots, %d errors: %s", res.Bytes, 4*f.bytes, len(res.Durations), res.Errors, res.First)
			}
			for path := range f.content {
				for robot := range 4 {
					key := "GET " + ClientAddress(robot).String() + " " + path
					if f.asked[key] != 1 {
						t.Errorf("%s: %d times", key, f.asked[key])
					}
				}
			}
			if n := f.asked["HEAD 127.1.0.1 /v2/app/manifests/v1"]; n != 1 {
				t.Errorf("the tag was looked up %d times", n)
			}
		})
	}
}

func TestRobotsTellOfShortBlobs(t *testing.T) {
	f := newFakeRegistry(t, 1000)
	for path, data := range f.content {
		if len(data) == 1000 {
			f.content[path] = data[:999]
		}
	}
	server := httptest.NewServer(f)
	defer server.Close()
	if res := run(t, server, pull(2)); res.Errors != 2 || !strings.Contains(res.First, "999 bytes of 1000") || len(res.Durations) != 0 {
		t.Errorf("%d errors: %s", res.Errors, res.First)
	}
}

func TestRobotsTellOfCutBlobs(t *testing.T) {
	f := newFakeRegistry(t, 100_000)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(f.content[r.URL.Path]) == 100_000 {
			w.Header().Set("Content-Length", "100000")
			_, _ = w.Write(make([]byte, 50_000))
			panic(http.ErrAbortHandler)
		}
		f.ServeHTTP(w, r)
	}))
	defer server.Close()
	if res := run(t, server, pull(1)); res.Errors != 1 || !strings.Contains(res.First, "EOF") && !strings.Contains(res.First, "reset") {
		t.Errorf("%d errors: %s", res.Errors, res.First)
	}
}

func TestRepeatKeepsItsConnection(t *testing.T) {
	var mu sync.Mutex
	connections := make(map[string]int)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		connections[r.RemoteAddr]++
		mu.Unlock()
		if r.URL.Path == "/chunked" { // without a length, in three pieces
			for range 3 {
				_, _ = w.Write(make([]byte, 10_000))
				_ = http.NewResponseController(w).Flush()
			}
			return
		}
		var body bytes.Buffer
		if _, err := body.ReadFrom(r.Body); err != nil || body.String() != "hello" || r.Header.Get("X-A") != "b" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	defer server.Close()
	exchange := []Request{
		{Method: "GET", Path: "/chunked"},
		{Method: "POST", Path: "/", Headers: "X-A: b\r\n", Body: []byte("hello"), Status: http.StatusAccepted},
	}
	res := run(t, server, Plan{Repeat: &Repeat{Clients: 2, Rounds: 5, Exchange: exchange}})
	if res.Errors != 0 || res.Requests != 20 || res.Bytes != 300_000 || len(res.Durations) != 10 || len(connections) != 2 || res.PerClient[1] != 150_000 {
		t.Errorf("%+v on %d connections", res, len(connections))
	}
	res = run(t, server, Plan{Repeat: &Repeat{Clients: 1, Rounds: 3, Fresh: true, Exchange: exchange}})
	if res.Errors != 0 || len(connections) != 5 {
		t.Errorf("%+v on %d connections, want 3 more", res, len(connections))
	}
	exchange[1].Status = 0
	if res = run(t, server, Plan{Repeat: &Repeat{Clients: 3, Rounds: 3, Exchange: exchange}}); res.Errors != 3 || !strings.Contains(res.First, "status 202") {
		t.Errorf("%d errors: %s", res.Errors, res.First)
	}
}

// A plan that cuts what is under way counts what came, and calls it no error.
func TestRepeatCuts(t *testing.T) {
	const enough = 128 << 20 // more than sockets keep: some of it was read
	ctx, cancel := context.WithCancel(t.Context())
	var sent sync.WaitGroup
	sent.Add(2)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(2*enough))
		piece := make([]byte, 1<<20)
		for range enough >> 20 {
			if _, err := w.Write(piece); err != nil {
				t.Error(err)
			}
		}
		sent.Done()
		<-r.Context().Done() // the rest never comes
	}))
	defer server.Close()
	go func() {
		sent.Wait()
		cancel()
	}()
	plan := Plan{Address: server.Listener.Addr().String(), Repeat: &Repeat{Clients: 2, For: time.Hour, Cut: true, Exchange: []Request{{Method: "GET", Path: "/"}}}}
	res, err := Run(ctx, plan)
	if err != nil || res.Errors != 0 || res.PerClient[0] == 0 || res.PerClient[1] == 0 || res.Bytes != res.PerClient[0]+res.PerClient[1] {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestPlansThatCannotBeDone(t *testing.T) {
	for name, plan := range map[string]Plan{
		"nothing":      {},
		"both":         {Pull: &Pull{}, Repeat: &Repeat{}},
		"no CA":        {CAFile: "missing", Pull: &Pull{}},
		"not PEM":      {CAFile: "loadgen.go", Pull: &Pull{}},
		"endless plan": {Repeat: &Repeat{Clients: 1}},
	} {
		if res, err := Run(t.Context(), plan); err == nil {
			t.Errorf("%s: %+v", name, res)
		}
	}
}

func TestPercentile(t *testing.T) {
	r := Result{}
	if r.Percentile(50) != 0 {
		t.Error("no durations, yet a percentile")
	}
	for i := range 200 {
		r.Durations = append(r.Durations, time.Duration(i))
	}
	for p, want := range map[int]time.Duration{0: 0, 50: 100, 99: 198, 100: 199} {
		if got := r.Percentile(p); got != want {
			t.Errorf("percentile %d: %d, want %d", p, got, want)
		}
	}
}
