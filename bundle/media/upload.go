package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

const (
	// smallChunk is the least that is sent in one request, unless less is left. GitHub's registry takes no more.
	smallChunk = 4 << 20
	// largeChunk is the most, in bytes. Some registries lose a chunk that breaks: a sixteenth of a large blob, at most.
	largeChunk    = 64 << 20
	chunksOfABlob = 16
	// maxForgotten is how often a blob is begun again: a registry that forgets uploads costs all its bytes each time.
	maxForgotten = 3
	// maxSetbacks is how often a registry may lose bytes that it had confirmed.
	maxSetbacks = 4
	maxLocation = 16 << 10 // bytes of the address of an upload
)

// UploadError says that a registry does not keep to the protocol of uploads.
type UploadError struct {
	Reason string
}

func (e *UploadError) Error() string { return "the registry's upload protocol: " + e.Reason }

func uploadErrorf(format string, args ...any) error {
	return &finalError{&UploadError{Reason: fmt.Sprintf(format, args...)}}
}

// upload is one blob on its way into a registry: POST opens a session, PATCH sends a chunk, PUT ends it, and after a
// break GET tells how much came through (OCI distribution-spec 1.1, "Pushing blobs").
type upload struct {
	r     *remote
	desc  ocispec.Descriptor
	feed  *feed
	small bool // it costs little to begin again
	whole bool // it is sent in one piece, in the PUT: it is small, or the registry takes no chunks

	at     *url.URL // where the session goes on; nil without one
	auth   string   // header of the session's requests, never of another host's
	chunk  int64    // bytes
	offset int64    // what the registry has
	best   int64    // the most that it confirmed

	wait      *wait // nil while something comes through
	forgotten int   // sessions
	setbacks  int
	asked     bool // new credentials since something came through
	refused   bool // a range was refused since something came through
	careful   bool // something broke: the registry shall agree before the bytes are sent
	careless  bool // it cannot
}

func (r *remote) newUpload(desc ocispec.Descriptor) *upload {
	chunk := desc.Size/chunksOfABlob + 1
	chunk = (chunk + 1<<20 - 1) &^ (1<<20 - 1) // some storages want round numbers
	return &upload{r: r, desc: desc, chunk: min(max(chunk, smallChunk), largeChunk)}
}

// run goes on until the registry has the blob.
func (u *upload) run(ctx context.Context) error {
	for {
		done, err := u.step(ctx)
		if err == nil && done {
			return nil
		}
		if u.feed.err != nil {
			return u.feed.err // the cause; the client only says that the upload broke
		}
		if err != nil {
			done, err = u.recover(ctx, err)
		}
		if err != nil || done {
			return err
		}
	}
}

func (u *upload) step(ctx context.Context) (done bool, err error) {
	switch {
	case u.at == nil:
		return false, u.start(ctx, nil)
	case u.whole:
		return u.finish(ctx, u.desc.Size)
	case u.offset < u.desc.Size:
		return false, u.patch(ctx)
	}
	return u.finish(ctx, 0)
}

// start opens a session. With a mount it may turn out that none is needed; then at is nil still.
func (u *upload) start(ctx context.Context, mount url.Values) error {
	u.offset, u.best, u.refused = 0, 0, false
	to := u.r.url(u.r.repo.Reference.Repository, "blobs", "uploads/")
	to.RawQuery = mount.Encode()
	resp, err := u.asUser(ctx, http.MethodPost, to)
	if err != nil {
		return err
	}
	switch {
	case resp.status == http.StatusCreated && mount != nil:
		return nil
	case resp.status != http.StatusAccepted:
		return resp.err
	}
	u.at = to
	u.at.RawQuery = ""
	least, err := strconv.ParseInt(resp.header.Get("OCI-Chunk-Min-Length"), 10, 64)
	if err == nil {
		u.chunk = max(u.chunk, min(least, u.desc.Size))
	}
	return u.move(resp, true)
}

// patch sends the next chunk.
func (u *upload) patch(ctx context.Context) error {
	end := min(u.offset+u.chunk, u.desc.Size)
	if err := u.feed.seek(u.offset); err != nil {
		return err
	}
	header := http.Header{"Content-Range": {fmt.Sprintf("%d-%d", u.offset, end-1)}}
	if u.careful {
		header.Set("Expect", "100-continue")
	}
	resp, err := u.send(ctx, http.MethodPatch, u.at, header, end-u.offset)
	if err != nil {
		return err
	}
	switch resp.status {
	case http.StatusAccepted, http.StatusCreated, http.StatusNoContent:
	default:
		return resp.err
	}
	if text := resp.header.Get("Range"); text != "" {
		got, err := rangeEnd(text)
		if err != nil {
			return err
		}
		if got > end {
			return uploadErrorf("it says that it has %d bytes, %d were sent", got, end)
		}
		end = got
	}
	u.careful = false
	if end <= u.offset {
		u.setbacks++
	}
	if err := u.confirm(end); err != nil {
		return err
	}
	return u.move(resp, false)
}

// finish ends the session, with the last n bytes: all or none.
func (u *upload) finish(ctx context.Context, n int64) (bool, error) {
	if n > 0 || u.whole {
		if err := u.feed.seek(0); err != nil {
			return false, err
		}
	}
	to := *u.at
	query := to.Query()
	query.Set("digest", u.desc.Digest.String())
	to.RawQuery = query.Encode()
	resp, err := u.send(ctx, http.MethodPut, &to, nil, n)
	if err != nil {
		return false, err
	}
	if resp.status != http.StatusCreated && resp.status != http.StatusNoContent {
		return false, resp.err
	}
	got := digest.Digest(resp.header.Get("Docker-Content-Digest"))
	if got.Validate() == nil && got.Algorithm() == u.desc.Digest.Algorithm() && got != u.desc.Digest {
		return false, uploadErrorf("it says that it stored %s", got)
	}
	return true, nil
}

// confirm takes note of how much the registry has.
func (u *upload) confirm(offset int64) error {
	u.offset = offset
	switch {
	case offset > u.best:
		u.best, u.wait, u.asked, u.refused = offset, nil, false, false
	case offset < u.best:
		u.setbacks++
	}
	if u.setbacks > maxSetbacks {
		return uploadErrorf("it lost bytes %d times: it has %d, %d were confirmed once", u.setbacks, offset, u.best)
	}
	return nil
}

// recover finds out after an error where to go on.
func (u *upload) recover(ctx context.Context, cause error) (done bool, err error) {
	var refused *errcode.ErrorResponse
	status := 0
	if errors.As(cause, &refused) {
		status = refused.StatusCode
	}
	ended := u.whole || status == http.StatusNotFound // perhaps well
	switch {
	case u.at == nil, ctx.Err() != nil: // to begin was tried with patience
		return false, cause
	case status == http.StatusUnauthorized && !u.asked: // a token's time is over
		u.asked = true
		if u.whole {
			return u.again(ctx, true)
		}
		return u.sync(ctx)
	case status == http.StatusExpectationFailed && u.careful:
		u.careful, u.careless = false, true
		return false, nil
	case status == http.StatusRequestedRangeNotSatisfiable && !u.whole && !u.refused:
		u.refused = true
		before := u.offset
		if done, err := u.sync(ctx); done || err != nil || u.at == nil || u.offset != before {
			return done, err
		}
		u.simpler()
		return false, nil
	case u.offset == 0 && !u.whole && tooMuch(status):
		u.simpler()
		return false, nil
	case status == http.StatusNotFound:
	case final(ctx, cause), misaddressed(cause, true):
		return false, cause
	}
	if u.wait == nil {
		u.wait = u.r.link.begin(ctx)
	}
	var pause time.Duration
	var busy *busyError
	if errors.As(cause, &busy) {
		pause = busy.after
	}
	if err := u.wait.next(ctx, cause, pause); err != nil {
		return false, err
	}
	u.careful = !u.careless
	if ended {
		return u.again(ctx, !u.small || status == http.StatusNotFound)
	}
	return u.sync(ctx)
}

// tooMuch reports whether a registry may mean a chunk's size, or chunks.
func tooMuch(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusLengthRequired, http.StatusRequestEntityTooLarge,
		http.StatusUnsupportedMediaType, http.StatusRequestedRangeNotSatisfiable, http.StatusNotImplemented:
		return true
	}
	return false
}

// simpler asks less of a registry that refuses a chunk: a small one, then none.
func (u *upload) simpler() {
	switch {
	case u.offset > 0: // a session that takes nothing more
		u.at = nil
	case u.chunk > smallChunk:
		u.chunk, u.refused = smallChunk, false
	default:
		u.whole, u.at = true, nil
	}
}

// sync asks how much came through.
func (u *upload) sync(ctx context.Context) (done bool, err error) {
	resp, err := u.asUser(waitingSince(ctx, u.wait), http.MethodGet, u.at)
	if err != nil {
		return false, err
	}
	switch resp.status {
	case http.StatusNoContent, http.StatusOK, http.StatusAccepted:
	case http.StatusUnauthorized, http.StatusForbidden:
		return false, resp.err
	default: // the session is over, or the registry does not tell
		return u.again(ctx, true)
	}
	text := resp.header.Get("Range")
	if text == "" {
		return u.again(ctx, true)
	}
	got, err := rangeEnd(text)
	if err != nil {
		return false, err
	}
	if read := u.feed.read(); got > read {
		return false, uploadErrorf("it says that it has %d bytes, %d were sent", got, read)
	}
	if err := u.confirm(got); err != nil {
		return false, err
	}
	return false, u.move(resp, false)
}

// again begins anew, unless the answer to the end of the session was what got lost.
func (u *upload) again(ctx context.Context, forgotten bool) (done bool, err error) {
	u.at = nil
	has := context.WithValue(waitingSince(ctx, u.wait), uploadKey{}, nil) // this may be redirected
	if done, err = u.r.Has(has, u.desc); done || err != nil || !forgotten {
		return done, err
	}
	if u.forgotten++; u.forgotten > maxForgotten {
		return false, uploadErrorf("it forgot %d uploads of this blob", u.forgotten)
	}
	return false, nil
}

// move goes to where the registry says that the session goes on.
func (u *upload) move(resp *answer, must bool) error {
	location := resp.header.Get("Location")
	if location == "" {
		if must {
			return uploadErrorf("it opened an upload without a Location")
		}
		return nil
	}
	to, err := sameRegistry(u.at, location)
	if err == nil {
		u.at = to
	}
	return err
}

// answer is what came back, without a body.
type answer struct {
	status int
	header http.Header
	err    error // what the status means when it is not the wanted one
}

// busyError carries how long a registry asks to wait.
type busyError struct {
	error
	after time.Duration
}

func (e *busyError) Unwrap() error { return e.error }

func readAnswer(resp *http.Response) (*answer, error) {
	a := &answer{status: resp.StatusCode, header: resp.Header, err: responseError(resp)}
	if to := resp.Header.Get("Location"); resp.StatusCode/100 == 3 {
		a.err = uploadErrorf("it redirects an upload to %.200q, which is not followed", to)
	}
	if after := retryAfter(resp); after > 0 {
		a.err = &busyError{a.err, after}
	}
	return a, resp.Body.Close()
}

// asUser sends a request that has no body with what credentials it needs, patiently.
func (u *upload) asUser(ctx context.Context, method string, to *url.URL) (*answer, error) {
	ctx = auth.AppendRepositoryScope(ctx, u.r.repo.Reference, auth.ActionPull, auth.ActionPush)
	req, err := http.NewRequestWithContext(ctx, method, to.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := u.r.http.Do(req)
	if err != nil {
		return nil, &finalError{err} // the transport was patient
	}
	u.auth = resp.Request.Header.Get("Authorization")
	return readAnswer(resp)
}

// send sends the next n bytes of the feed, once.
func (u *upload) send(ctx context.Context, method string, to *url.URL, header http.Header, n int64) (*answer, error) {
	ctx, cancel := context.WithCancel(context.WithValue(ctx, onceKey{}, true))
	defer cancel()
	var body *lease
	var rd io.Reader
	if n > 0 {
		body = &lease{r: io.LimitReader(&contextReader{ctx, u.feed}, n), returned: make(chan struct{})}
		rd = body
	}
	req, err := http.NewRequestWithContext(ctx, method, to.String(), rd)
	if err != nil {
		return nil, &finalError{err}
	}
	req.ContentLength = n
	req.Header.Set("Content-Type", "application/octet-stream")
	for key, values := range u.r.http.Header {
		req.Header[key] = values
	}
	for key, values := range header {
		req.Header[key] = values
	}
	if u.auth != "" {
		req.Header.Set("Authorization", u.auth)
	}
	resp, err := u.r.http.Client.Do(req)
	var a *answer
	if err == nil {
		a, err = readAnswer(resp)
	}
	if body != nil {
		cancel()
		<-body.returned // net/http may read on after it answered
	}
	return a, err
}

// lease is a body that says when net/http has done with it.
type lease struct {
	mu       sync.Mutex
	r        io.Reader
	over     bool
	returned chan struct{}
}

func (l *lease) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return 0, http.ErrBodyReadAfterClose
	}
	return l.r.Read(p)
}

// Close waits for a Read under way.
func (l *lease) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.over = true
		close(l.returned)
	}
	return nil
}

// putBlob uploads a blob from what open gives, the first time from 0, unless it can be mounted.
func (r *remote) putBlob(ctx context.Context, desc ocispec.Descriptor, open func(offset int64) (io.ReadCloser, error), from []candidate) (err error) {
	u := r.newUpload(desc)
	ctx = context.WithValue(ctx, uploadKey{}, true)
	if mounted, err := u.mount(ctx, from); mounted || err != nil {
		return err
	}
	u.feed = &feed{open: open, desc: desc}
	if desc.Size <= smallBlob {
		u.small, u.whole = true, true
		data, err := readSmallBlob(ctx, desc, open)
		if err != nil {
			return err
		}
		u.feed.open = func(offset int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data[offset:])), nil
		}
	}
	defer func() {
		if cerr := u.feed.Close(); err == nil {
			err = cerr
		}
	}()
	return u.run(ctx)
}

// readSmallBlob reads what may be held in memory.
func readSmallBlob(ctx context.Context, desc ocispec.Descriptor, open func(offset int64) (io.ReadCloser, error)) ([]byte, error) {
	rc, err := open(0)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	err = errors.Join(CopyBlob(ctx, &buf, rc, desc), rc.Close())
	return buf.Bytes(), err
}
