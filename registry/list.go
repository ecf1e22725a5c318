package registry

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/distribution/distribution/v3/registry/api/errcode"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxCatalog is how many repositories one page of _catalog has at most.
const maxCatalog = 1000

// serveTags answers distribution-spec 1.1 "Listing Tags". The name in the answer is the one that the client asked for.
func serveTags(w http.ResponseWriter, r *http.Request, repo *repository, asked string) {
	tags, ok := servePage(w, r, repo.tagNames, 0)
	if !ok {
		return
	}
	writeValue(w, r, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{asked, tags})
}

func serveCatalog(w http.ResponseWriter, r *http.Request, v *View) {
	names, ok := servePage(w, r, v.names, maxCatalog)
	if !ok {
		return
	}
	writeValue(w, r, "application/json", struct {
		Repositories []string `json:"repositories"`
	}{names})
}

// servePage cuts the page that n and last ask for out of sorted, and sets the Link to the next one (RFC 8288). Limit, if
// not 0, bounds n and is its default. It answers a bad n itself.
func servePage(w http.ResponseWriter, r *http.Request, sorted []string, limit int) (page []string, ok bool) {
	query := r.URL.Query()
	n := len(sorted)
	if s := query.Get("n"); s != "" {
		asked, err := strconv.ParseUint(s, 10, 31)
		if err != nil {
			writeError(w, r, errcode.ErrorCodePaginationNumberInvalid, "", nil)
			return nil, false
		}
		n = int(asked)
	}
	if limit > 0 {
		n = min(n, limit)
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
		next := url.Values{"n": {strconv.Itoa(n)}, "last": {sorted[end-1]}}
		if ns := query.Get("ns"); ns != "" {
			next.Set("ns", ns) // without it the next page would be another upstream's
		}
		w.Header().Set("Link", "<"+r.URL.EscapedPath()+"?"+next.Encode()+`>; rel="next"`)
	}
	return append([]string{}, sorted[start:end]...), true
}

// serveReferrers answers distribution-spec 1.1 "Listing Referrers". A digest that nothing refers to has an empty list.
func serveReferrers(w http.ResponseWriter, r *http.Request, repo *repository, reference string) {
	subject := digest.Digest(reference)
	if subject.Validate() != nil {
		writeError(w, r, errcode.ErrorCodeDigestInvalid, "not a digest", map[string]string{"digest": reference})
		return
	}
	list := repo.referrers[subject]
	if want := r.URL.Query().Get("artifactType"); want != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
		list = slices.DeleteFunc(slices.Clone(list), func(d ocispec.Descriptor) bool { return d.ArtifactType != want })
	}
	writeValue(w, r, ocispec.MediaTypeImageIndex, referrersIndex(list))
}

func writeValue(w http.ResponseWriter, r *http.Request, mediaType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		writeError(w, r, errcode.ErrorCodeUnknown, "", nil)
		return
	}
	writeJSON(w, r, http.StatusOK, mediaType, body)
}
