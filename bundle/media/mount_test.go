package media

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/testbundle"
)

// recorded remembers the requests that change something.
type recorded struct {
	next http.Handler

	mu   sync.Mutex
	seen []string
}

func (r *recorded) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		r.mu.Lock()
		r.seen = append(r.seen, req.Method+" "+req.URL.Path+" "+req.URL.Query().Get("from"))
		r.mu.Unlock()
	}
	r.next.ServeHTTP(w, req)
}

// sent gives the requests with bytes of blobs, and the number of others that change something.
func (r *recorded) sent() (blobs []string, others int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.seen {
		if strings.HasPrefix(s, "PATCH") || strings.HasPrefix(s, "PUT") && strings.Contains(s, "/uploads/") {
			blobs = append(blobs, s)
		} else {
			others++
		}
	}
	r.seen = nil
	return blobs, others
}

func TestMountsFromTheSource(t *testing.T) {
	b, _, host := published(t)
	r := &recorded{next: proxyTo(host)}
	at := front(t, r)
	if err := carry(t.Context(), t, "oci://"+at+"/app:"+b.Tag, "oci://"+at+"/other/app"); err != nil {
		t.Fatal(err)
	}
	if blobs, others := r.sent(); len(blobs) > 0 || others == 0 {
		t.Errorf("sent %q, and %d requests", blobs, others)
	}
	checkSame(t, b, "oci://"+host+"/other/app:"+b.Tag)
	// What is there is not sent again, manifests with a subject and tags included.
	for _, to := range []string{"/other/app", "/other/app:" + b.Tag, "/app"} {
		if err := carry(t.Context(), t, "oci://"+at+"/app:"+b.Tag, "oci://"+at+to); err != nil {
			t.Fatal(err)
		}
		if blobs, others := r.sent(); len(blobs)+others > 0 {
			t.Errorf("%s: sent %q, and %d requests again", to, blobs, others)
		}
	}
}

func TestMountsFromWhatTheOptionsSay(t *testing.T) {
	b, dir := written(t, testbundle.Options{})
	host := registryHost(t)
	r := &recorded{next: proxyTo(host)}
	at := front(t, r)
	if err := carry(t.Context(), t, dir, "oci://"+at+"/base"); err != nil {
		t.Fatal(err)
	}
	if blobs, _ := r.sent(); len(blobs) == 0 {
		t.Fatal("nothing was sent at first")
	}
	// One repository is empty, one has everything.
	o := Options{PlainHTTP: true, MountFrom: []string{"nothing/here", "base", "app"}}
	if err := carryWith(t.Context(), t, dir, "oci://"+at+"/app", o); err != nil {
		t.Fatal(err)
	}
	if blobs, _ := r.sent(); len(blobs) > 0 {
		t.Errorf("sent %q", blobs)
	}
	checkSame(t, b, "oci://"+host+"/app:"+b.Tag)
	var bad *RefError
	for _, names := range [][]string{{"UPPER"}, {""}, {"../x"}, {host + "/base"}, slices.Repeat([]string{"a"}, maxMounts+1)} {
		if s, err := OpenSink(t.Context(), "oci://"+host+"/app", Options{MountFrom: names}); !errors.As(err, &bad) {
			t.Errorf("mount from %q: %v, %v", names, s, err)
		}
	}
}

// TestMountsWhereItemsComeFrom mounts from the repositories of the lock that are in the same registry.
func TestMountsWhereItemsComeFrom(t *testing.T) {
	lock := &bundle.Lock{Items: []bundle.Item{
		{Name: "a", Repository: "registry.example.com/acme/a"}, {Name: "b", Repository: "registry.example.com:5000/acme/b"},
		{Name: "own", Repository: "registry.example.com/releases/stack"}, {Name: "git", Repository: "github.com/acme/x"}, {Name: "file"},
	}}
	to := sink(t, "oci://registry.example.com/releases/stack", Options{MountFrom: []string{"base", "releases/stack"}})
	from := source(t, "oci://registry.example.com/staging/stack:v1", Options{})
	s := newSources(to, from, lock)
	always := []candidate{{"staging/stack", true}, {"base", false}}
	for item, want := range map[string][]candidate{
		"a": append(slices.Clone(always), candidate{"acme/a", false}), "b": always, "own": always, "git": always, "file": always, "": always,
	} {
		if got := s.of(item); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", item, got, want)
		}
	}
	if s := newSources(to, source(t, "oci://else.example.com/staging/stack:v1", Options{}), &bundle.Lock{}); len(s.of("a")) != 1 {
		t.Errorf("from another registry: %v", s.of("a"))
	}
}

// TestRegistryThatDoesNotMount opens an upload instead, or refuses.
func TestRegistryThatDoesNotMount(t *testing.T) {
	b, dir := written(t, testbundle.Options{})
	for name, status := range map[string]int{"opens an upload": 0, "refuses": http.StatusForbidden, "does not know": http.StatusMethodNotAllowed} {
		t.Run(name, func(t *testing.T) {
			host := registryHost(t)
			next := proxyTo(host)
			var mu sync.Mutex
			asked, posts := make(map[digest.Digest]int), 0
			at := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				query := r.URL.Query()
				mu.Lock()
				if r.Method == http.MethodPost {
					posts++
				}
				if mount := query.Get("mount"); mount != "" {
					asked[digest.Digest(mount)]++
				}
				mu.Unlock()
				if query.Has("mount") {
					if status != 0 {
						w.WriteHeader(status)
						return
					}
					r.URL.RawQuery = ""
				}
				next.ServeHTTP(w, r)
			}))
			if err := carry(t.Context(), t, dir, "oci://"+at+"/app"); err != nil {
				t.Fatal(err)
			}
			posts = 0
			o := Options{PlainHTTP: true, Workers: 1}
			if err := carryWith(t.Context(), t, "oci://"+at+"/app:"+b.Tag, "oci://"+at+"/copy", o); err != nil {
				t.Fatal(err)
			}
			checkSame(t, b, "oci://"+host+"/copy:"+b.Tag)
			if status != 0 && len(asked) != 1 {
				t.Errorf("asked for %d blobs a registry that refuses", len(asked))
			}
			if status == 0 && posts != len(asked) {
				t.Errorf("%d uploads were opened for %d blobs", posts, len(asked))
			}
		})
	}
}

// TestMountAsksForBothRepositories has a registry whose tokens are good for what was asked for.
func TestMountAsksForBothRepositories(t *testing.T) {
	b, _, host := published(t)
	next := proxyTo(host)
	var self string
	var mounted atomic.Int64
	guard := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			token := strings.Join(r.URL.Query()["scope"], "|")
			_ = json.NewEncoder(w).Encode(map[string]string{"token": token})
			return
		}
		repository := strings.Split(r.URL.Path, "/")[2]
		need := []string{"repository:" + repository + ":pull"}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			need[0] += ",push"
		}
		if from := r.URL.Query().Get("from"); from != "" {
			need = append(need, "repository:"+from+":pull")
			mounted.Add(1)
		}
		token := r.Header.Get("Authorization")
		for _, scope := range need {
			if !strings.Contains(token, scope) {
				w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+self+`/token",service="x",scope="`+need[0]+`"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
	r := &recorded{next: guard}
	self = front(t, r)
	if err := carry(t.Context(), t, "oci://"+self+"/app:"+b.Tag, "oci://"+self+"/copy"); err != nil {
		t.Fatal(err)
	}
	if blobs, _ := r.sent(); len(blobs) > 0 || mounted.Load() == 0 {
		t.Errorf("sent %q, asked %d times to mount", blobs, mounted.Load())
	}
	checkSame(t, b, "oci://"+host+"/copy:"+b.Tag)
}
