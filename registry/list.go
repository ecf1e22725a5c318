package registry

import (
	"cmp"
	"encoding/json"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

// Limits of one page; a Link leads to the next one.
const (
	maxCatalog   = 1000
	maxTags      = 10_000
	maxReferrers = bundle.MaxManifest - 1<<10 // bytes of the descriptors: clients read no larger index
)

// serveTags answers distribution-spec 1.1 "Listing Tags". The name in the answer is the one that the client asked for.
func serveTags(w http.ResponseWriter, r *http.Request, repo *repository, asked string) {
	tags, ok := servePage(w, r, "/v2/"+asked+"/tags/list", repo.tagNames, maxTags)
	if !ok {
		return
	}
	writeValue(w, r, jsonType, struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{asked, tags})
}

func serveCatalog(w http.ResponseWriter, r *http.Request, v *View) {
	names, ok := servePage(w, r, "/v2/_catalog", v.names, maxCatalog)
	if !ok {
		return
	}
	writeValue(w, r, jsonType, struct {
		Repositories []string `json:"repositories"`
	}{names})
}

// servePage cuts the page that n and last ask for out of sorted, and sets the Link to the next one (RFC 8288). It answers
// a bad n itself.
func servePage(w http.ResponseWriter, r *http.Request, path string, sorted []string, limit int) (page []string, ok bool) {
	query := r.URL.Query()
	n := limit
	if s := query.Get("n"); s != "" {
		asked, ok := parseNumber(s)
		if !ok {
			writeError(w, r, pageInvalid, "", nil)
			return nil, false
		}
		n = int(min(asked, int64(limit), math.MaxInt32))
	}
	start := 0
	if last := query.Get("last"); last != "" {
		i, found := slices.BinarySearch(sorted, last)
		if found {
			i++
		}
		start = i
	}
	end := start + min(n, len(sorted)-start)
	if end < len(sorted) && end > start {
		linkNext(w, path, url.Values{"n": {strconv.Itoa(n)}, "last": {sorted[end-1]}}, query)
	}
	return append([]string{}, sorted[start:end]...), true
}

func linkNext(w http.ResponseWriter, path string, next, query url.Values) {
	if ns := query.Get("ns"); ns != "" {
		next.Set("ns", ns) // without it the next page would be another upstream's
	}
	w.Header().Set("Link", "<"+path+"?"+next.Encode()+`>; rel="next"`)
}

// serveReferrers answers distribution-spec 1.1 "Listing Referrers". A digest that nothing refers to has an empty list.
func serveReferrers(w http.ResponseWriter, r *http.Request, repo *repository, rt route, answer *Answer) {
	subject, query := rt.reference, r.URL.Query()
	if _, _, valid := parseSum(subject); !valid {
		writeError(w, r, digestInvalid, "", nil)
		return
	}
	answer.Reference, answer.Digest, answer.MediaType = subject, digest.Digest(subject), indexType[0]
	list, next := repo.referrers(subject), url.Values{}
	if want := query.Get("artifactType"); want != "" {
		w.Header()["Oci-Filters-Applied"] = []string{"artifactType"}
		next.Set("artifactType", want)
		list = slices.DeleteFunc(list, func(d ocispec.Descriptor) bool { return d.ArtifactType != want })
	}
	if last := query.Get("last"); last != "" {
		list = slices.DeleteFunc(list, func(d ocispec.Descriptor) bool { return string(d.Digest) <= last })
	}
	page := firstPage(list)
	if len(page) < len(list) {
		next.Set("last", string(page[len(page)-1].Digest))
		linkNext(w, "/v2/"+rt.name+"/referrers/"+subject, next, query)
	}
	writeValue(w, r, indexType, referrersIndex(page))
}

// firstPage gives as many descriptors as fit into one index, and at least one.
func firstPage(list []ocispec.Descriptor) []ocispec.Descriptor {
	size := 0
	for i, d := range list {
		raw, err := json.Marshal(d)
		if size += len(raw) + 1; i > 0 && (err != nil || size > maxReferrers) {
			return list[:i]
		}
	}
	return list
}

func referrersIndex(list []ocispec.Descriptor) ocispec.Index {
	return ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: append([]ocispec.Descriptor{}, list...), // never null
	}
}

func sortReferrers(list []ocispec.Descriptor) []ocispec.Descriptor {
	slices.SortFunc(list, func(a, b ocispec.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	return slices.CompactFunc(list, func(a, b ocispec.Descriptor) bool { return cmp.Compare(a.Digest, b.Digest) == 0 })
}
