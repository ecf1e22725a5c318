package origin

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/internal/upstream"
)

// push writes an image and what refers to it, and gives the digests. A registry without the API gets a fallback tag from
// the client.
func push(t *testing.T, host string) (subject digest.Digest, refs []digest.Digest) {
	t.Helper()
	repo, err := name.NewRepository(host + "/acme/app")
	if err != nil {
		t.Fatal(err)
	}
	img, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(repo.Tag("v1"), img); err != nil {
		t.Fatal(err)
	}
	desc, err := remote.Head(repo.Tag("v1"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		ref, err := mutate.AppendLayers(empty.Image, must(random.Layer(50, types.OCILayer)))
		if err != nil {
			t.Fatal(err)
		}
		ref = mutate.ConfigMediaType(mutate.MediaType(ref, types.OCIManifestSchema1), types.MediaType(fmt.Sprintf("application/vnd.test.%d", i)))
		withSubject, ok := mutate.Subject(ref, *desc).(v1.Image)
		if !ok {
			t.Fatal("not an image")
		}
		hash := must(withSubject.Digest())
		if err := remote.Write(repo.Digest(hash.String()), withSubject); err != nil {
			t.Fatal(err)
		}
		refs = append(refs, digest.Digest(hash.String()))
	}
	return digest.Digest(desc.Digest.String()), refs
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func needReferrers(t *testing.T, got []Referrer, want []digest.Digest) {
	t.Helper()
	found := make(map[digest.Digest]bool)
	for _, r := range got {
		if r.Tag != "" || !strings.HasPrefix(r.ArtifactType, "application/vnd.test.") || r.Annotations != nil {
			t.Errorf("%+v", r)
		}
		found[r.Digest] = true
	}
	if len(got) != len(want) || len(found) != len(want) {
		t.Errorf("%d referrers, want %d", len(got), len(want))
	}
	for _, d := range want {
		if !found[d] {
			t.Errorf("%s is not found", d)
		}
	}
}

// Two real registries: one has the API, the other answers 404 to it and has the fallback tag.
func TestReferrersOfRealRegistries(t *testing.T) {
	withAPI := httptest.NewServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0))))
	defer withAPI.Close()
	without, err := upstream.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer without.Close() //nolint:errcheck // scratch
	for what, host := range map[string]string{"API": strings.TrimPrefix(withAPI.URL, "http://"), "fallback tag": without.Host()} {
		t.Run(what, func(t *testing.T) {
			subject, want := push(t, host)
			repo, ref := open(t, &Registries{}, host+"/acme/app:v1")
			_, err := remote.Head(ref.Context().Tag(fallbackTag(subject)))
			if hasTag := err == nil; hasTag != (what == "fallback tag") {
				t.Fatalf("the registry is not of the kind that is to be tested: %v", err)
			}
			got, err := repo.Referrers(t.Context(), subject)
			if err != nil {
				t.Fatal(err)
			}
			needReferrers(t, got, want)
			if none, err := repo.Referrers(t.Context(), want[0]); err != nil || len(none) != 0 {
				t.Errorf("%v (%v)", none, err)
			}
		})
	}
}

// listing plays a registry that knows referrers by pages of its API and by tags.
type listing struct {
	subject digest.Digest
	pages   []string              // of the API; none: 404
	next    func(page int) string // Link header
	header  map[string]string     // of pages
	tags    map[string]string     // indexes by tag
	each    func(page int) string // in place of pages
}

func (l *listing) start(t *testing.T) *Repository {
	t.Helper()
	s := server(t, func(w http.ResponseWriter, r *http.Request) {
		rest := strings.TrimPrefix(r.URL.Path, "/v2/a/b/")
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		if tag, ok := strings.CutPrefix(rest, "manifests/"); ok && l.tags[tag] != "" {
			_, _ = io.WriteString(w, l.tags[tag])
			return
		}
		var page int
		_, _ = fmt.Sscan(r.URL.Query().Get("page"), &page)
		if rest != "referrers/"+l.subject.String() || page >= len(l.pages) && l.each == nil {
			http.NotFound(w, r)
			return
		}
		for k, v := range l.header {
			w.Header().Set(k, v)
		}
		if l.next != nil {
			if link := l.next(page); link != "" {
				w.Header().Set("Link", link)
			}
		}
		if l.each != nil {
			_, _ = io.WriteString(w, l.each(page))
			return
		}
		_, _ = io.WriteString(w, l.pages[page])
	})
	repo, _ := connectTo(t, s.URL)
	return repo
}

func listOf(ds ...digest.Digest) string {
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	index.SchemaVersion = 2
	for _, d := range ds {
		index.Manifests = append(index.Manifests, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.test.x", Digest: d, Size: 10,
			Annotations: map[string]string{"a": "b"},
		})
	}
	return string(must(json.Marshal(index)))
}

func numbered(from, to int) (ds []digest.Digest) {
	for i := from; i < to; i++ {
		ds = append(ds, digest.FromString(fmt.Sprint(i)))
	}
	return ds
}

var subject = digest.FromString("subject")

func nextPage(page int) string { return fmt.Sprintf(`<?page=%d>; rel="next"`, page+1) }

// A registry that learned the API later knows some by it, others by the tag, and some by both.
func TestReferrersOfAPIAndFallbackTag(t *testing.T) {
	repo := (&listing{
		subject: subject,
		pages:   []string{listOf(numbered(0, 3)...), listOf(numbered(2, 5)...)},
		next: func(page int) string {
			if page == 0 {
				return nextPage(0)
			}
			return ""
		},
		tags: map[string]string{fallbackTag(subject): listOf(append(numbered(4, 8), numbered(4, 8)...)...)},
	}).start(t)
	got, err := repo.Referrers(t.Context(), subject)
	if err != nil {
		t.Fatal(err)
	}
	needReferrers(t, got, numbered(0, 8))
}

func TestReferrersInPagesWithoutEnd(t *testing.T) {
	for what, next := range map[string]func(int) string{
		"more than 64 pages": nextPage,
		"round in a circle":  func(page int) string { return nextPage(min(page, 1)) },
	} {
		repo := (&listing{subject: subject, each: func(int) string { return listOf() }, next: next}).start(t)
		_, err := repo.Referrers(t.Context(), subject)
		needError(t, err, what)
	}
}

func TestReferrersPageElsewhere(t *testing.T) {
	for _, link := range []string{
		`<http://other.example.com/v2/a/b/referrers/x?page=1>; rel="next"`, `<//other.example.com/v2/>; rel=next`, `</etc>; rel=next`,
		`<http://user@127.0.0.1/v2/>; rel=next`, `<ftp:x>; rel=next`, `nonsense`, `<`, `</v2/x>; rel=next, </v2/y>; rel=next`,
	} {
		repo := (&listing{subject: subject, pages: []string{listOf()}, next: func(int) string { return link }}).start(t)
		if _, err := repo.Referrers(t.Context(), subject); err == nil {
			t.Errorf("%s was followed", link)
		}
	}
}

func TestGiganticReferrers(t *testing.T) {
	repo := (&listing{subject: subject, pages: []string{listOf(numbered(0, maxReferrers+1)...)}}).start(t)
	_, err := repo.Referrers(t.Context(), subject)
	needError(t, err, fmt.Sprintf("more than %d", maxReferrers))
	repo = (&listing{subject: subject, next: nextPage, each: func(page int) string {
		return listOf(numbered(100*page, 100*page+100)...)
	}}).start(t)
	_, err = repo.Referrers(t.Context(), subject)
	needError(t, err, fmt.Sprintf("more than %d", maxReferrers))
}

func TestReferrersThatCannotBe(t *testing.T) {
	for want, l := range map[string]*listing{
		"left some out":                {pages: []string{listOf()}, header: map[string]string{"OCI-Filters-Applied": "artifactType"}},
		"refer to itself":              {pages: []string{listOf(subject)}},
		"cannot be carried":            {pages: []string{strings.Replace(listOf(numbered(0, 1)...), ocispec.MediaTypeImageManifest, "application/x", 1)}},
		"with 10 and with 11 bytes":    {pages: []string{listOf(numbered(0, 1)...)}, tags: map[string]string{fallbackTag(subject): strings.Replace(listOf(numbered(0, 1)...), `"size":10`, `"size":11`, 1)}},
		"digest":                       {pages: []string{listOf("sha256:../../etc/passwd")}},
		"schema version":               {pages: []string{`{}`}},
		"duplicate key":                {pages: []string{`{"schemaVersion":2,"schemaVersion":2}`}},
		"media type \"application/x\"": {pages: []string{listOf()}, header: map[string]string{"Content-Type": "application/x"}},
	} {
		l.subject = subject
		_, err := l.start(t).Referrers(t.Context(), subject)
		needError(t, err, want)
	}
}

func TestFallbackTagOfLongDigest(t *testing.T) {
	d := digest.SHA512.FromString("x")
	if tag := fallbackTag(d); tag != "sha512-"+d.Encoded()[:64] {
		t.Error(tag)
	}
	if tag := legacyTag(d, ".sig"); tag != "" {
		t.Errorf("%s is longer than a tag", tag)
	}
	if tag := legacyTag(subject, ".sig"); tag != "sha256-"+subject.Encoded()+".sig" {
		t.Error(tag)
	}
}

func TestNextLink(t *testing.T) {
	for _, c := range []struct{ header, want string }{
		{``, ""},
		{`</v2/x>; rel="next"`, "/v2/x"},
		{`</v2/x>;rel=next`, "/v2/x"},
		{`</v2/y>; rel=prev, </v2/x,y>; title="a, b"; rel="next"`, "/v2/x,y"},
		{`</v2/x>; REL=NEXT ,`, "/v2/x"},
		{`</v2/x>`, ""},
	} {
		if got, err := nextLink([]string{c.header}); err != nil || got != c.want {
			t.Errorf("%s: %q (%v), want %q", c.header, got, err, c.want)
		}
	}
}

func FuzzNextLink(f *testing.F) {
	needCorpus(f)
	r := &Repository{}
	page := &url.URL{Scheme: "https", Host: "registry.example.com", Path: "/v2/a/b/referrers/sha256:x"}
	f.Fuzz(func(t *testing.T, header string) {
		u, err := r.nextPage(page, []string{header})
		if err != nil || u == nil {
			return
		}
		again, err := url.Parse(u.String())
		if err != nil || again.Host != page.Host || again.Scheme != "https" || !strings.HasPrefix(again.Path, "/v2/") {
			t.Fatalf("%q leads to %s (%v)", header, u, err)
		}
	})
}
