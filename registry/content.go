package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"strconv"
	"syscall"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/registry/store"
)

// content is what one response is about.
type content struct {
	digest    digest.Digest
	size      int64
	mediaType []string
	missing   failure // the answer when the store does not have what the view promises
}

func (h *Handler) serveManifest(w http.ResponseWriter, r *http.Request, repo *repository, reference string, answer *Answer) {
	m, ok := manifest{}, false
	if looksLikeDigest(reference) {
		s, known, valid := parseSum(reference)
		if !valid {
			writeError(w, r, digestInvalid, "", nil)
			return
		}
		answer.Reference = reference
		if known {
			m, ok = repo.byDigest(reference, &s)
		}
	} else if isTag(reference) {
		answer.Reference = reference
		m, ok = repo.byTag(reference)
	}
	if !ok {
		writeError(w, r, manifestUnknown, "", map[string]string{"name": repo.name, "reference": reference})
		return
	}
	answer.Digest, answer.MediaType = m.digest, m.mediaType[0]
	c := content{digest: m.digest, size: m.size, mediaType: m.mediaType, missing: manifestUnknown}
	switch {
	case m.made != nil:
		h.serveCached(w, r, c, newCached(m.digest, m.made))
	case m.size > maxManifest:
		h.serveStored(w, r, c, false)
	default:
		e, err := h.cache.get(r.Context(), m.digest, func(ctx context.Context) ([]byte, error) {
			desc := ocispec.Descriptor{MediaType: m.mediaType[0], Digest: m.digest, Size: m.size}
			return bundle.ReadBlob(ctx, h.store, desc, maxManifest)
		})
		if err != nil {
			h.fail(w, r, c, err)
			return
		}
		h.serveCached(w, r, c, e)
	}
}

// serveCached sends a manifest from memory. Ranges do not count (RFC 9110, 14.2: a server may ignore them).
func (h *Handler) serveCached(w http.ResponseWriter, r *http.Request, c content, e *cached) {
	header := w.Header()
	header["Docker-Content-Digest"] = e.digest
	header["Etag"] = e.etag
	if r.Header["If-None-Match"] != nil || r.Header["If-Match"] != nil {
		if _, status := wantedSpans(r, e.etag[0], 0); status == http.StatusNotModified || status == http.StatusPreconditionFailed {
			h.refuse(w, r, c, status)
			return
		}
	}
	header["Content-Type"] = c.mediaType
	header["Content-Length"] = e.length
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(e.body) // the client is gone; net/http closes the connection
	}
}

func (h *Handler) serveBlob(w http.ResponseWriter, r *http.Request, repo *repository, reference string, answer *Answer) {
	s, known, valid := parseSum(reference)
	if !valid {
		writeError(w, r, digestInvalid, "", nil)
		return
	}
	answer.Reference = reference
	size, ok := int64(0), false
	if known {
		size, ok = repo.blob(&s)
	}
	if !ok {
		writeError(w, r, blobUnknown, "", map[string]string{"name": repo.name, "digest": reference})
		return
	}
	answer.Digest, answer.MediaType = digest.Digest(reference), blobType[0]
	h.serveStored(w, r, content{answer.Digest, size, blobType, blobUnknown}, true)
}

// serveStored sends all or parts of a file of the store.
func (h *Handler) serveStored(w http.ResponseWriter, r *http.Request, c content, blob bool) {
	header, etag := w.Header(), `"`+string(c.digest)+`"`
	header["Docker-Content-Digest"] = []string{string(c.digest)}
	header["Etag"] = []string{etag}
	header["Accept-Ranges"] = byteRanges
	spans, status := wantedSpans(r, etag, c.size)
	switch {
	case status >= 300:
		h.refuse(w, r, c, status)
		return
	case r.Method == http.MethodHead:
		h.head(w, r, c)
		return
	case blob && h.redirect != nil && h.redirected(w, r, c):
		return
	}
	// Before the file is opened: hundreds of requests may wait here.
	if blob && h.Blobs != nil {
		out, leave, err := h.Blobs(w, r)
		if err != nil {
			writeError(w, r, turnLost, "", nil) // seen by the log if not by the client
			return
		}
		defer leave()
		w = out
	}
	file, err := h.store.OpenBlob(r.Context(), c.digest)
	if err == nil && file.Size != c.size {
		// A robot would find the wrong digest only after it had pulled all of it, and would pull it again.
		err = errors.Join(&bundle.DamagedError{Descriptor: ocispec.Descriptor{Digest: c.digest}, Size: file.Size}, file.Close())
	}
	if err != nil {
		h.fail(w, r, c, err)
		return
	}
	defer file.Close()
	if err := send(w, file, c, spans); err != nil && r.Context().Err() == nil && (errors.Is(err, io.EOF) || errors.Is(err, syscall.EIO)) {
		h.report(r, err) // the disk's fault, not the client's
	}
}

// refuse answers a request whose conditions or ranges do not fit.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, c content, status int) {
	switch status {
	case http.StatusNotModified:
		w.WriteHeader(status)
	case http.StatusPreconditionFailed:
		writeError(w, r, matchFailed, "", nil)
	default:
		w.Header()["Content-Range"] = []string{"bytes */" + strconv.FormatInt(c.size, 10)}
		writeError(w, r, rangeInvalid, "", nil)
	}
}

// head answers without opening the file, but not without looking whether it is there.
func (h *Handler) head(w http.ResponseWriter, r *http.Request, c content) {
	size, err := h.store.Size(r.Context(), c.digest)
	if err == nil && size != c.size {
		err = &bundle.DamagedError{Descriptor: ocispec.Descriptor{Digest: c.digest, Size: c.size}, Size: size}
	}
	if err != nil {
		h.fail(w, r, c, err)
		return
	}
	w.Header()["Content-Type"] = c.mediaType
	w.Header()["Content-Length"] = []string{strconv.FormatInt(c.size, 10)}
	w.WriteHeader(http.StatusOK)
}

// redirected sends the client to the store's own server, if that is there and wants it.
func (h *Handler) redirected(w http.ResponseWriter, r *http.Request, c content) bool {
	url, ok, err := h.redirect.Redirect(r.Context(), c.digest)
	if err != nil {
		h.report(r, err) // the bytes can still come through here
	}
	if err != nil || !ok {
		return false
	}
	header := w.Header()
	header.Set("Location", url)
	header.Set("Content-Length", "0")
	w.WriteHeader(http.StatusTemporaryRedirect)
	return true
}

// fail answers when the store cannot give what the view promises. The client is told no more than that.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, c content, err error) {
	for _, name := range []string{"Etag", "Accept-Ranges", "Docker-Content-Digest"} {
		w.Header().Del(name) // they are not about the error
	}
	f := broken
	if errors.Is(err, fs.ErrNotExist) {
		f = c.missing
	}
	if r.Context().Err() == nil {
		h.report(r, err)
	}
	writeError(w, r, f, "", map[string]string{"digest": string(c.digest)})
}

// send writes the content, or the spans of it. The reader that io.CopyN makes of the file is the one shape, a limit
// around an *os.File, that net/http hands to the kernel's sendfile.
func send(w http.ResponseWriter, file *store.Blob, c content, spans []span) error {
	header := w.Header()
	switch len(spans) {
	case 0:
		header["Content-Type"] = c.mediaType
		header["Content-Length"] = []string{strconv.FormatInt(c.size, 10)}
		w.WriteHeader(http.StatusOK)
		_, err := io.CopyN(w, file.ReadSeekCloser, c.size)
		return err
	case 1:
		if _, err := file.Seek(spans[0].first, io.SeekStart); err != nil {
			return err
		}
		header["Content-Type"] = c.mediaType
		header["Content-Range"] = []string{spans[0].contentRange(c.size)}
		header["Content-Length"] = []string{strconv.FormatInt(spans[0].length, 10)}
		w.WriteHeader(http.StatusPartialContent)
		_, err := io.CopyN(w, file.ReadSeekCloser, spans[0].length)
		return err
	}
	return sendMultipart(w, file, c, spans)
}

func (s span) contentRange(size int64) string {
	return fmt.Sprintf("bytes %d-%d/%d", s.first, s.first+s.length-1, size)
}

func (s span) partHeader(c content) textproto.MIMEHeader {
	return textproto.MIMEHeader{"Content-Range": {s.contentRange(c.size)}, "Content-Type": c.mediaType}
}

// sendMultipart answers several ranges (RFC 9110, 14.6).
func sendMultipart(w http.ResponseWriter, file *store.Blob, c content, spans []span) error {
	var frame counter
	mw := multipart.NewWriter(&frame)
	length := int64(0)
	for _, s := range spans {
		if _, err := mw.CreatePart(s.partHeader(c)); err != nil {
			return err
		}
		length += s.length
	}
	if err := mw.Close(); err != nil {
		return err
	}
	boundary := mw.Boundary()
	w.Header()["Content-Type"] = []string{"multipart/byteranges; boundary=" + boundary}
	w.Header()["Content-Length"] = []string{strconv.FormatInt(length+int64(frame), 10)}
	w.WriteHeader(http.StatusPartialContent)
	mw = multipart.NewWriter(w)
	if err := mw.SetBoundary(boundary); err != nil {
		return err
	}
	for _, s := range spans {
		part, err := mw.CreatePart(s.partHeader(c))
		if err != nil {
			return err
		}
		if _, err := file.Seek(s.first, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(part, file.ReadSeekCloser, s.length); err != nil {
			return err
		}
	}
	return mw.Close()
}

// counter counts what is written.
type counter int64

func (n *counter) Write(p []byte) (int, error) {
	*n += counter(len(p))
	return len(p), nil
}
