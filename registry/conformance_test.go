package registry

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

// library is content of every kind that the conformance suite of distribution-spec makes itself where it may push. Here a
// release brings it, and the requests are those of its read-only mode.
type library struct {
	*fixture
	tags      map[string]digest.Digest
	manifests map[digest.Digest][]byte // with their bytes
	types     map[digest.Digest]string // of manifests
	blobs     map[digest.Digest][]byte
	referrers map[digest.Digest][]ocispec.Descriptor // by subject
	entries   []entry
}

const libraryRepository = "conformance/repo1"

func (l *library) blob(algorithm digest.Algorithm, mediaType, content string) ocispec.Descriptor {
	desc := l.putAs(algorithm, mediaType, []byte(content))
	l.blobs[desc.Digest] = []byte(content)
	return desc
}

// add admits a manifest or index and makes it an item with a tag, or without one.
func (l *library) add(algorithm digest.Algorithm, kind bundle.Kind, tag string, document any) ocispec.Descriptor {
	l.t.Helper()
	raw := must(json.MarshalIndent(document, "", "  "))(l.t)
	mediaType := ocispec.MediaTypeImageManifest
	if _, ok := document.(ocispec.Index); ok {
		mediaType = ocispec.MediaTypeImageIndex
	}
	desc := l.putAs(algorithm, mediaType, raw)
	l.manifests[desc.Digest], l.types[desc.Digest] = raw, mediaType
	e := item("item-"+strconv.Itoa(len(l.entries)), kind, desc, libraryRepository)
	if tag != "" {
		e.item.Tags, l.tags[tag] = []string{tag}, desc.Digest
	}
	if idx, ok := document.(ocispec.Index); ok {
		e.entries = []ocispec.Descriptor{}
		for _, m := range idx.Manifests {
			e.entries = append(e.entries, bare(m))
			e.item.Platforms = append(e.item.Platforms, bundle.Platform{Platform: "unknown", Digest: m.Digest})
		}
	}
	var of struct {
		ArtifactType string
		Config       *ocispec.Descriptor
		Subject      *ocispec.Descriptor
		Annotations  map[string]string
	}
	if err := json.Unmarshal(raw, &of); err != nil {
		l.t.Fatal(err)
	}
	if of.Subject != nil {
		if kind == bundle.KindReferrer {
			e.item.Subject = of.Subject.Digest
		}
		ref := desc
		ref.ArtifactType, ref.Annotations = of.ArtifactType, of.Annotations
		if ref.ArtifactType == "" && of.Config != nil {
			ref.ArtifactType = of.Config.MediaType
		}
		l.referrers[of.Subject.Digest] = append(l.referrers[of.Subject.Digest], ref)
	}
	l.entries = append(l.entries, e)
	return desc
}

// custom is a manifest with fields that no specification knows.
type custom struct {
	ocispec.Manifest
	New map[string][]int `json:"x-new-field"`
}

func newLibrary(t *testing.T) *library {
	l := &library{fixture: newFixture(t), tags: map[string]digest.Digest{}, manifests: map[digest.Digest][]byte{}, types: map[digest.Digest]string{},
		blobs: map[digest.Digest][]byte{}, referrers: map[digest.Digest][]ocispec.Descriptor{}}
	manifest := func(config ocispec.Descriptor, layers ...ocispec.Descriptor) ocispec.Manifest {
		return ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Config: config, Layers: append([]ocispec.Descriptor{}, layers...)}
	}
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		in := func(name string) string { return name + "-" + alg.String() }
		empty := l.blob(alg, ocispec.MediaTypeEmptyJSON, "{}")
		config := l.blob(alg, ocispec.MediaTypeImageConfig, `{"os":"linux","architecture":"amd64","x":"`+alg.String()+`"}`)
		layer := l.blob(alg, ocispec.MediaTypeImageLayerGzip, in("layer"))
		nothing := l.blob(alg, ocispec.MediaTypeImageLayer, "")
		image := l.add(alg, bundle.KindImage, in("image"), manifest(config, layer, nothing))
		second := l.add(alg, bundle.KindImage, in("no-layers"), manifest(config))
		l.add(alg, bundle.KindImage, in("custom"), custom{manifest(config, layer), map[string][]int{"a": {1, 2}}})
		data := layer
		data.Data = l.blobs[layer.Digest]
		l.add(alg, bundle.KindImage, in("data"), manifest(config, data))
		index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{image, second}}
		of := l.add(alg, bundle.KindImage, in("index"), index)
		artifact := manifest(empty, layer)
		artifact.ArtifactType = "application/vnd.example.artifact"
		l.add(alg, bundle.KindArtifact, in("artifact"), artifact)
		for i, subject := range []ocispec.Descriptor{image, image, of, {MediaType: ocispec.MediaTypeImageManifest, Digest: alg.FromString("missing"), Size: 7}} {
			ref := artifact
			ref.Subject, ref.Annotations = &subject, map[string]string{"org.opencontainers.image.title": strconv.Itoa(i), "": "empty key"}
			l.add(alg, bundle.KindReferrer, "", ref)
			ref.ArtifactType, ref.Config = "", config // the config's media type then says what it is
			l.add(alg, bundle.KindReferrer, in("referrer-"+strconv.Itoa(i)), ref)
			list := index
			list.Manifests, list.Subject, list.ArtifactType = []ocispec.Descriptor{image}, &subject, "application/vnd.example.list."+strconv.Itoa(i)
			l.add(alg, bundle.KindArtifact, in("list-"+strconv.Itoa(i)), list)
		}
	}
	return l
}

func TestConformance(t *testing.T) {
	l := newLibrary(t)
	srv := l.serve(l.view(l.active(l.release("1", l.entries...))))
	repo := srv.URL + "/v2/" + libraryRepository
	t.Run("ping", func(t *testing.T) {
		if resp, _ := do(t, "GET", srv.URL+"/v2/"); resp.StatusCode != 200 {
			t.Errorf("%d", resp.StatusCode)
		}
	})
	t.Run("manifests", func(t *testing.T) {
		for tag, d := range l.tags {
			l.checkManifest(t, repo+"/manifests/"+tag, d)
		}
		for d := range l.manifests {
			l.checkManifest(t, repo+"/manifests/"+d.String(), d)
		}
	})
	t.Run("blobs", func(t *testing.T) {
		for d, content := range l.blobs {
			checkContent(t, repo+"/blobs/"+d.String(), d, "", content)
		}
	})
	t.Run("tags", func(t *testing.T) { l.checkTags(t, repo) })
	t.Run("referrers", func(t *testing.T) { l.checkReferrers(t, repo) })
	t.Run("errors", func(t *testing.T) {
		for path, want := range map[string]string{
			"/manifests/" + digest.FromString("no").String():        "404 MANIFEST_UNKNOWN",
			"/manifests/" + digest.SHA512.FromString("no").String(): "404 MANIFEST_UNKNOWN",
			"/manifests/missing-abc":                                "404 MANIFEST_UNKNOWN",
			"/manifests/sha256:baddigeststring":                     "400 DIGEST_INVALID",
			"/blobs/" + digest.FromString("no").String():            "404 BLOB_UNKNOWN",
			"/blobs/sha256:baddigeststring":                         "400 DIGEST_INVALID",
			"/referrers/sha256:baddigeststring":                     "400 DIGEST_INVALID",
			"/referrers/image-sha256":                               "400 DIGEST_INVALID",
		} {
			for _, method := range []string{"GET", "HEAD"} {
				resp, body := do(t, method, repo+path)
				got := strconv.Itoa(resp.StatusCode) + want[3:]
				if method == "GET" {
					got = strconv.Itoa(resp.StatusCode) + " " + errorCode(t, resp, body)
				}
				if got != want {
					t.Errorf("%s %s: %s, want %s", method, path, got, want)
				}
			}
		}
	})
	t.Run("deletes", func(t *testing.T) {
		for _, path := range []string{"/manifests/image-sha256", "/manifests/" + l.tags["image-sha512"].String(), "/blobs/" + digest.FromString("{}").String()} {
			if resp, body := do(t, "DELETE", repo+path); resp.StatusCode != 405 || errorCode(t, resp, body) != "UNSUPPORTED" {
				t.Errorf("%s: %d", path, resp.StatusCode)
			}
			if resp, _ := do(t, "GET", repo+path); resp.StatusCode != 200 {
				t.Errorf("%s is gone: %d", path, resp.StatusCode)
			}
		}
	})
}

func (l *library) checkManifest(t *testing.T, url string, d digest.Digest) {
	t.Helper()
	checkContent(t, url, d, l.types[d], l.manifests[d], "Accept", ocispec.MediaTypeImageIndex, "Accept", ocispec.MediaTypeImageManifest)
}

// checkContent compares GET and HEAD with what the release brought, byte for byte.
func checkContent(t *testing.T, url string, d digest.Digest, mediaType string, content []byte, header ...string) {
	t.Helper()
	for _, method := range []string{"GET", "HEAD"} {
		resp, body := do(t, method, url, header...)
		want := string(content)
		if method == "HEAD" {
			want = ""
		}
		if resp.StatusCode != http.StatusOK || string(body) != want || resp.Header.Get("Content-Length") != strconv.Itoa(len(content)) ||
			resp.Header.Get("Docker-Content-Digest") != d.String() || mediaType != "" && resp.Header.Get("Content-Type") != mediaType {
			t.Errorf("%s %s: %d, %d bytes, %v", method, url, resp.StatusCode, len(body), resp.Header)
		}
	}
}

func (l *library) checkTags(t *testing.T, repo string) {
	list := func(query string) []string {
		resp, body := do(t, "GET", repo+"/tags/list"+query)
		var got struct {
			Name string
			Tags []string
		}
		if err := json.Unmarshal(body, &got); err != nil || resp.StatusCode != 200 || got.Name != libraryRepository || got.Tags == nil {
			t.Fatalf("%s: %d %s", query, resp.StatusCode, body)
		}
		return got.Tags
	}
	all := slices.Sorted(maps.Keys(l.tags))
	if got := list(""); !slices.Equal(got, all) {
		t.Errorf("tags %v, want %v", got, all)
	}
	for i, last := range all {
		if got := list("?last=" + last); !slices.Equal(got, all[i+1:]) {
			t.Errorf("after %s: %v, want %v", last, got, all[i+1:])
		}
		if got, want := list("?n=2&last="+last), all[i+1:min(i+3, len(all))]; !slices.Equal(got, want) {
			t.Errorf("two after %s: %v, want %v", last, got, want)
		}
		if got := list("?n=" + strconv.Itoa(i)); !slices.Equal(got, all[:i]) {
			t.Errorf("the first %d: %v", i, got)
		}
	}
}

func (l *library) checkReferrers(t *testing.T, repo string) {
	list := func(path string) ([]ocispec.Descriptor, *http.Response) {
		resp, body := do(t, "GET", repo+path)
		var got ocispec.Index
		if err := json.Unmarshal(body, &got); err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != ocispec.MediaTypeImageIndex ||
			got.MediaType != ocispec.MediaTypeImageIndex || got.SchemaVersion != 2 || got.Manifests == nil {
			t.Fatalf("%s: %d %s", path, resp.StatusCode, body)
		}
		return got.Manifests, resp
	}
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512} {
		if got, _ := list("/referrers/" + alg.FromString("nothing refers to this").String()); len(got) != 0 {
			t.Errorf("%v refers to nothing", got)
		}
	}
	for subject, want := range l.referrers {
		path := "/referrers/" + subject.String()
		got, resp := list(path)
		if !sameReferrers(got, want) || resp.Header.Get("OCI-Filters-Applied") != "" {
			t.Errorf("%s: %+v, want %+v", subject, got, want)
		}
		if got, _ := list("/manifests/" + fallbackTag(subject.String())); !sameReferrers(got, want) {
			t.Errorf("tag of %s: %+v, want %+v", subject, got, want)
		}
		for _, ref := range want {
			got, resp := list(path + "?artifactType=" + strings.ReplaceAll(ref.ArtifactType, "+", "%2B"))
			some := slices.DeleteFunc(slices.Clone(want), func(d ocispec.Descriptor) bool { return d.ArtifactType != ref.ArtifactType })
			if !sameReferrers(got, some) || resp.Header.Get("OCI-Filters-Applied") != "artifactType" {
				t.Errorf("%s of type %s: %+v, want %+v", subject, ref.ArtifactType, got, some)
			}
		}
	}
}

func sameReferrers(got, want []ocispec.Descriptor) bool {
	return slices.EqualFunc(got, sortReferrers(slices.Clone(want)), func(a, b ocispec.Descriptor) bool {
		return a.Digest == b.Digest && a.MediaType == b.MediaType && a.Size == b.Size && a.ArtifactType == b.ArtifactType && maps.Equal(a.Annotations, b.Annotations)
	})
}

// More referrers than one index may hold come in pages (distribution-spec 1.1 "Listing Referrers").
func TestReferrersInPages(t *testing.T) {
	f := newFixture(t)
	desc := f.putImage(f.image(1))
	entries := []entry{item("app", bundle.KindImage, desc, "ghcr.io/acme/a", "v1")}
	want := map[digest.Digest]bool{}
	for i := range 5 {
		ref := f.artifact("application/x", strconv.Itoa(i), &desc, map[string]string{"long": strings.Repeat("x", 1<<20)})
		want[ref.Digest] = true
		e := item("ref-"+strconv.Itoa(i), bundle.KindReferrer, ref, "ghcr.io/acme/a")
		e.item.Subject = desc.Digest
		entries = append(entries, e)
	}
	srv := f.serve(f.view(f.active(f.release("1", entries...))))
	pages := 0
	for next := "/v2/acme/a/referrers/" + desc.Digest.String() + "?artifactType=application/x&ns=ghcr.io"; next != ""; pages++ {
		resp, body := do(t, "GET", srv.URL+next)
		var page ocispec.Index
		if err := json.Unmarshal(body, &page); err != nil || len(body) > bundle.MaxManifest || resp.Header.Get("OCI-Filters-Applied") == "" {
			t.Fatalf("%s: %d bytes, %v", next, len(body), err)
		}
		for _, d := range page.Manifests {
			if !want[d.Digest] {
				t.Errorf("%s came twice", d.Digest)
			}
			delete(want, d.Digest)
		}
		next, _, _ = strings.Cut(strings.TrimPrefix(resp.Header.Get("Link"), "<"), ">")
	}
	if len(want) != 0 || pages < 2 {
		t.Errorf("%d pages, without %v", pages, want)
	}
	if resp, _ := do(t, "GET", srv.URL+"/v2/ghcr.io/acme/a/manifests/"+fallbackTag(desc.Digest.String())); resp.StatusCode != 404 {
		t.Errorf("an index that no client reads: %d", resp.StatusCode)
	}
}
