// Package registry serves the pull half of the OCI distribution API (distribution-spec 1.1) for a set of releases.
//
// What is served is a View, computed from the locks of the releases and never changed afterwards; the bytes come from the
// package store. There is no route that writes.
//
// One relay stands in for many upstream registries. A repository is known by its full name (ghcr.io/acme/robot-app), and
// the name is found from containerd's ?ns= parameter, from the path, or from the Host header.
package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"time"

	"github.com/distribution/distribution/v3/registry/api/errcode"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/registry/store"
)

// Handler answers requests below /v2/. It holds no state of its own and is safe for concurrent use.
type Handler struct {
	// Report, if not nil, is told of every request that failed on the relay's side: a blob of the view that the store
	// does not have, or has with another size. It is called from many goroutines. Set it before the first request.
	Report func(r *http.Request, err error)

	store *store.Store
}

// NewHandler gives a handler that reads manifests and blobs from st.
func NewHandler(st *store.Store) *Handler {
	return &Handler{store: st}
}

// ServeView answers one request for a path below /v2/ from v. A nil view serves nothing.
//
// w must implement io.ReaderFrom as net/http's own does: a wrapper that hides it makes every blob pass through this
// process instead of going from the file to the socket within the kernel.
func (h *Handler) ServeView(w http.ResponseWriter, r *http.Request, v *View) {
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		writeError(w, r, errcode.ErrorCodeUnsupported, "this registry is read-only", nil)
		return
	}
	if v == nil {
		v = &View{}
	}
	rt, ok := parsePath(r.URL.Path)
	if !ok {
		writeError(w, r, errcode.ErrorCodeNameUnknown, "", nil)
		return
	}
	switch rt.kind {
	case routePing:
		writeJSON(w, r, http.StatusOK, "application/json", []byte("{}"))
		return
	case routeCatalog:
		serveCatalog(w, r, v)
		return
	case routeUpload:
		w.Header().Set("Allow", "")
		writeError(w, r, errcode.ErrorCodeUnsupported, "this registry is read-only", nil)
		return
	}
	name, err := resolveName(rt.name, r.URL.Query().Get("ns"), r.Host, v.knows)
	if err != nil {
		writeError(w, r, errcode.ErrorCodeNameInvalid, err.Error(), map[string]string{"name": rt.name})
		return
	}
	repo := v.repos[name]
	if repo == nil {
		writeError(w, r, errcode.ErrorCodeNameUnknown, "", map[string]string{"name": name})
		return
	}
	switch rt.kind {
	case routeManifest:
		h.serveManifest(w, r, repo, rt.reference)
	case routeBlob:
		h.serveBlob(w, r, repo, rt.reference)
	case routeTags:
		serveTags(w, r, repo, rt.name)
	case routeReferrers:
		serveReferrers(w, r, repo, rt.reference)
	}
}

func (h *Handler) serveManifest(w http.ResponseWriter, r *http.Request, repo *repository, reference string) {
	if isDigest(reference) && digest.Digest(reference).Validate() != nil {
		writeError(w, r, errcode.ErrorCodeDigestInvalid, "not a digest", map[string]string{"digest": reference})
		return
	}
	desc, made, ok := repo.resolve(reference)
	if !ok {
		writeError(w, r, errcode.ErrorCodeManifestUnknown, "", map[string]string{"name": repo.name, "reference": reference})
		return
	}
	if made != nil {
		serveContent(w, r, desc, bytes.NewReader(made))
		return
	}
	h.serveStored(w, r, desc, errcode.ErrorCodeManifestUnknown)
}

func (h *Handler) serveBlob(w http.ResponseWriter, r *http.Request, repo *repository, reference string) {
	d := digest.Digest(reference)
	if d.Validate() != nil {
		writeError(w, r, errcode.ErrorCodeDigestInvalid, "not a digest", map[string]string{"digest": reference})
		return
	}
	size, ok := repo.blobs[d]
	if !ok {
		writeError(w, r, errcode.ErrorCodeBlobUnknown, "", map[string]string{"name": repo.name, "digest": reference})
		return
	}
	h.serveStored(w, r, ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: size}, errcode.ErrorCodeBlobUnknown)
}

// serveStored sends a file of the store; missing is the answer when the store does not have what the view promises.
func (h *Handler) serveStored(w http.ResponseWriter, r *http.Request, desc ocispec.Descriptor, missing errcode.ErrorCode) {
	blob, err := h.store.OpenBlob(r.Context(), desc.Digest)
	if err != nil {
		h.report(r, err)
		code := errcode.ErrorCodeUnknown
		if errors.Is(err, fs.ErrNotExist) {
			code = missing
		}
		writeError(w, r, code, "the store cannot open it", map[string]string{"digest": desc.Digest.String()})
		return
	}
	defer blob.Close()
	if blob.Size != desc.Size {
		// A robot would find the wrong digest only after it had pulled all of it, and would pull it again.
		h.report(r, &bundle.DamagedError{Descriptor: desc, Size: blob.Size})
		writeError(w, r, errcode.ErrorCodeUnknown, "damaged in the store", map[string]string{"digest": desc.Digest.String()})
		return
	}
	serveContent(w, r, desc, blob.ReadSeekCloser)
}

func (h *Handler) report(r *http.Request, err error) {
	if h.Report != nil {
		h.Report(r, fmt.Errorf("serve %s: %w", r.URL.Path, err))
	}
}

// serveContent sends all or a range of content, which must be an *os.File if the kernel is to send it.
func serveContent(w http.ResponseWriter, r *http.Request, desc ocispec.Descriptor, content io.ReadSeeker) {
	etag := `"` + desc.Digest.String() + `"`
	header := w.Header()
	header.Set("Docker-Content-Digest", desc.Digest.String())
	header.Set("Etag", etag)
	if r.Header.Get("If-None-Match") == "" && rangeCounts(r, etag) && !rangeFits(r.Header.Get("Range"), desc.Size) {
		header.Set("Content-Range", fmt.Sprintf("bytes */%d", desc.Size))
		writeError(w, r, errcode.ErrorCodeRangeInvalid, "the range is not in the content", nil)
		return
	}
	header.Set("Content-Type", desc.MediaType)
	http.ServeContent(w, r, "", time.Time{}, content)
}

// writeError sends the error body of distribution-spec 1.1 "Error Codes". An empty message means the usual one.
func writeError(w http.ResponseWriter, r *http.Request, code errcode.ErrorCode, message string, detail any) {
	e := errcode.Error{Code: code, Message: message, Detail: detail}
	if message == "" {
		e.Message = code.Descriptor().Message
	}
	body, err := json.Marshal(errcode.Errors{e})
	if err != nil {
		body = []byte(`{"errors":[{"code":"UNKNOWN"}]}`)
	}
	writeJSON(w, r, code.Descriptor().HTTPStatusCode, "application/json", body)
}

func writeJSON(w http.ResponseWriter, r *http.Request, status int, mediaType string, body []byte) {
	header := w.Header()
	header.Set("Content-Type", mediaType)
	header.Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client is gone; net/http closes the connection
	}
}
