// Package registry serves the pull half of the OCI distribution API (distribution-spec 1.1) for a set of releases.
//
// What is served is a View, computed from the parts that describe the releases and never changed afterwards; the bytes
// come from the package store. There is no route that writes.
//
// One relay stands in for many upstream registries. A repository is known by its full name (ghcr.io/acme/robot-app), and
// the name is found from containerd's ?ns= parameter, from the path, or from the Host header.
package registry

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/registry/store"
)

// Handler answers requests below /v2/. It keeps small manifests in memory, by their digests, and has no other state. It is
// safe for concurrent use; set its fields before the first request.
type Handler struct {
	// Report, if not nil, is told of every request that failed on the relay's side: a blob of the view that the store
	// does not have, or has with another size. It is called from many goroutines.
	Report func(r *http.Request, err error)

	// Blobs, if not nil, is entered before the bytes of a blob are sent, and may let the request wait; what it gives is
	// written to instead, until leave is called. HEAD, and answers without content, do not pass it. An error means that
	// the client is gone or that its turn did not come.
	Blobs func(w http.ResponseWriter, r *http.Request) (out http.ResponseWriter, leave func(), err error)

	// Hosts are further names by which clients reach an upstream: "images.plant7.example" → "ghcr.io". They count in the
	// Host header, in ns, and at the beginning of a path; a name that is an upstream of the view itself does not count.
	Hosts map[string]string

	store    *store.Store
	redirect redirector // nil if the store cannot
	cache    cache
}

// redirector is a store that can send clients to its bytes. Not ok means that this blob is to be streamed.
type redirector interface {
	Redirect(ctx context.Context, d digest.Digest) (url string, ok bool, err error)
}

// NewHandler gives a handler that reads manifests and blobs from st.
func NewHandler(st *store.Store) *Handler {
	h := &Handler{store: st}
	h.redirect, _ = any(st).(redirector)
	return h
}

// Answer says what a request asked for, as far as it could be understood, whether it was answered or not.
type Answer struct {
	Kind       Kind
	Repository string        // full name: ghcr.io/acme/robot-app; empty when the request's name is not one
	Reference  string        // a tag or a digest; empty when it is neither, or when the request has none
	Digest     digest.Digest // of the manifest or blob that is served; of referrers, the subject
	MediaType  string        // of what is served
}

// Header values that all responses share. net/http does not change them.
var (
	apiVersion = []string{"registry/2.0"}
	jsonType   = []string{"application/json"}
	indexType  = []string{ocispec.MediaTypeImageIndex}
	blobType   = []string{"application/octet-stream"}
	byteRanges = []string{"bytes"}
	readers    = []string{"GET, HEAD"}
	closing    = []string{"close"}
)

// ServeView answers one request for a path below /v2/ from v. A nil view serves nothing.
//
// w must implement io.ReaderFrom as net/http's own does: a wrapper that hides it makes every blob pass through this
// process instead of going from the file to the socket within the kernel.
func (h *Handler) ServeView(w http.ResponseWriter, r *http.Request, v *View) Answer {
	// Keys of the header are written as net/http writes them and set directly: Set would make each value anew.
	header := w.Header()
	header["Docker-Distribution-Api-Version"] = apiVersion
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header["Allow"] = readers
		if r.ContentLength != 0 && r.ProtoMajor == 1 {
			header["Connection"] = closing // net/http would read the body before it answers
		}
		writeError(w, r, readOnly, "", nil)
		return Answer{}
	}
	if v == nil {
		v = &View{}
	}
	rt, ok := parseRequest(r)
	if !ok {
		writeError(w, r, nameUnknown, "", nil)
		return Answer{}
	}
	switch rt.kind {
	case KindPing:
		writeJSON(w, r, http.StatusOK, jsonType, []byte("{}"))
		return Answer{Kind: KindPing, MediaType: jsonType[0]}
	case KindCatalog:
		serveCatalog(w, r, v)
		return Answer{Kind: KindCatalog, MediaType: jsonType[0]}
	case kindUpload:
		header["Allow"] = []string{""}
		writeError(w, r, readOnly, "", nil)
		return Answer{}
	}
	return h.serveRepository(w, r, v, rt)
}

func (h *Handler) serveRepository(w http.ResponseWriter, r *http.Request, v *View, rt route) Answer {
	answer := Answer{Kind: rt.kind}
	ns := namespace(r.URL.RawQuery)
	name, err := upstreams{v, h.Hosts}.resolve(rt.name, ns, r.Host)
	if err != nil {
		writeError(w, r, nameInvalid, err.Error(), nil)
		return answer
	}
	answer.Repository = name
	repo := v.repos[name]
	if repo == nil {
		writeError(w, r, nameUnknown, "", map[string]string{"name": name})
		return answer
	}
	if ns != "" {
		w.Header()["Oci-Namespace"] = v.namespace(ns)
	}
	answer.Repository = repo.name
	switch rt.kind {
	case KindManifest:
		h.serveManifest(w, r, repo, rt.reference, &answer)
	case KindBlob:
		h.serveBlob(w, r, repo, rt.reference, &answer)
	case KindTags:
		serveTags(w, r, repo, rt.name)
		answer.MediaType = jsonType[0]
	case KindReferrers:
		serveReferrers(w, r, repo, rt, &answer)
	}
	return answer
}

// namespace gives the ns parameter of a query (distribution-spec 1.1 "Registry Proxying").
func namespace(query string) string {
	if query == "" {
		return ""
	}
	// What containerd sends, without the map that Query makes.
	if ns, ok := strings.CutPrefix(query, "ns="); ok && !strings.ContainsAny(ns, "&;%+") {
		return ns
	}
	values, _ := url.ParseQuery(query) // what can be read of a malformed query counts, as in URL.Query
	return values.Get("ns")
}

func (h *Handler) report(r *http.Request, err error) {
	if h.Report != nil {
		h.Report(r, fmt.Errorf("serve %s: %w", r.URL.Path, err))
	}
}
