package smarthttp

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/plimsoll/plimsoll/relay/traffic"
)

// maxInMemory is what a body may take of memory; a first clone's is a few hundred bytes.
const maxInMemory = 32 << 10

// Body is a whole request body, inflated, in memory when it is small and else in a file that is unlinked.
type Body struct {
	small []byte
	at    *bytes.Reader // of small
	size  int64

	file    *os.File
	spools  *spools
	client  string
	spooled int64 // what the file was booked with
}

// spools counts the bytes of bodies in files: a few clients must not fill the disk, and one must not take all there is.
type spools struct {
	total, each int64 // bounds

	mu      sync.Mutex
	used    int64
	clients map[string]int64
}

// take books n bytes for a client.
func (s *spools) take(client string, n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used+n > s.total || s.clients[client]+n > s.each {
		return false
	}
	s.used += n
	s.clients[client] += n
	return true
}

func (s *spools) give(client string, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= n
	if s.clients[client] -= n; s.clients[client] <= 0 {
		delete(s.clients, client)
	}
}

// Bytes gives the whole body if it is in memory. The caller must not change it.
func (b *Body) Bytes() (all []byte, ok bool) { return b.small, b.file == nil }

// Size is the length in bytes.
func (b *Body) Size() int64 { return b.size }

// Read reads on.
func (b *Body) Read(p []byte) (int, error) {
	if b.file != nil {
		return b.file.Read(p)
	}
	return b.at.Read(p)
}

// Seek sets where Read, and a process that gets the body, goes on.
func (b *Body) Seek(offset int64, whence int) (int64, error) {
	if b.file != nil {
		return b.file.Seek(offset, whence)
	}
	return b.at.Seek(offset, whence)
}

// Close lets go of the file.
func (b *Body) Close() error {
	if b.file == nil {
		return nil
	}
	b.spools.give(b.client, b.spooled)
	b.spooled = 0
	return b.file.Close()
}

// stdin is what a process reads: the file itself, or it would be copied through a pipe.
func (b *Body) stdin() io.Reader {
	if b.file != nil {
		return b.file
	}
	return b.at
}

// Read takes the whole body of a request to a service. Nothing has been answered when it returns a refusal, which the
// caller answers with. The caller closes the body.
//
// The whole request is taken before a process is started, so that a slow client holds no place in a queue, and before
// anything is answered, because net/http drops what was not read of a request once the answer begins.
func (s *Server) Read(w http.ResponseWriter, r *http.Request, service Service) (*Body, *Refusal) {
	if ct, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || ct != service.RequestType() {
		return nil, &Refusal{Status: http.StatusUnsupportedMediaType, Text: "want Content-Type " + service.RequestType()}
	}
	rc := http.NewResponseController(w)
	defer func() { _ = rc.SetReadDeadline(time.Time{}) }()
	end := time.Now().Add(s.opts.BodyTimeout)
	raw := &armedReader{r: http.MaxBytesReader(w, r.Body, s.opts.MaxBody), arm: func() {
		by := time.Now().Add(s.opts.StallTimeout)
		if by.After(end) { // who sends a byte now and then would else hold on for ever
			by = end
		}
		_ = rc.SetReadDeadline(by) // not every ResponseWriter has deadlines
	}}
	body, err := s.readBody(r.Context(), raw, r.Header.Get("Content-Encoding"), traffic.ClientOf(r))
	if err == nil {
		return body, nil
	}
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		s.opts.Failed(r, fmt.Errorf("keep the request: %w", err))
		refusal = &Refusal{Status: http.StatusInternalServerError, Text: "the request could not be kept"}
	}
	return nil, refusal
}

// bodyRate is how many bytes per second of large bodies are taken, from all clients together: keeping, searching and
// inflating them takes the processors that others are served with. What clients send by the way is in memory.
const bodyRate = 16 << 20

func (s *Server) readBody(ctx context.Context, raw io.Reader, encoding, client string) (*Body, error) {
	sent := &counter{r: raw}
	in := io.Reader(sent)
	switch encoding {
	case "", "identity":
	case "gzip", "x-gzip":
		gz, err := gzip.NewReader(sent)
		if err != nil {
			return nil, refuseBody(err)
		}
		in = &inflater{r: gz, sent: &sent.n}
	default:
		return nil, &Refusal{Status: http.StatusUnsupportedMediaType, Text: fmt.Sprintf("content encoding %.50q is not supported", encoding)}
	}
	body := &Body{spools: &s.spools, client: client}
	var small bytes.Buffer
	n, err := io.CopyN(&small, in, maxInMemory+1)
	switch {
	case n > s.opts.MaxInflated:
		return nil, errTooLarge()
	case errors.Is(err, io.EOF):
		body.small, body.size = small.Bytes(), n
		body.at = bytes.NewReader(body.small)
		return body, nil
	case err == nil:
		paced, leave := s.pace.Reader(ctx, client, in)
		defer leave()
		err = body.spool(s.opts.Spool, io.MultiReader(&small, paced), s.opts.MaxInflated)
	}
	if err != nil {
		return nil, errors.Join(refuseBody(err), body.Close())
	}
	return body, nil
}

// What git sends hardly shrinks to a third: object ids are random. A body that inflates to much more costs its sender
// nothing and us the time of a core.
const (
	maxInflation   = 20
	inflationSlack = 64 << 10 // bytes that any body may inflate to
)

// inflater is a body that is inflated while it comes, and refuses one that is nearly nothing but that.
type inflater struct {
	r    io.Reader
	n    int64  // bytes that came out
	sent *int64 // bytes that went in
}

func (i *inflater) Read(p []byte) (int, error) {
	n, err := i.r.Read(p)
	if i.n += int64(n); i.n > inflationSlack+maxInflation**i.sent {
		return 0, errTooLarge()
	}
	return n, err
}

// counter counts what is read through it.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// spool writes the body into a file of the folder dir, which is unlinked at once: a crash leaves nothing.
func (b *Body) spool(dir string, in io.Reader, limit int64) error {
	f, err := os.CreateTemp(dir, "body-")
	if err != nil {
		return err
	}
	b.file = f
	if err := os.Remove(f.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := io.Copy(&spoolWriter{body: b, limit: limit}, in); err != nil {
		return err
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}

// spoolWriter books what it writes before it does.
type spoolWriter struct {
	body  *Body
	limit int64
}

func (w *spoolWriter) Write(p []byte) (int, error) {
	b, n := w.body, int64(len(p))
	if b.size+n > w.limit {
		return 0, errTooLarge()
	}
	if !b.spools.take(b.client, n) {
		return 0, &Refusal{Status: http.StatusServiceUnavailable, Text: "too many large requests are under way", RetryAfter: retryAfter}
	}
	b.size += n
	b.spooled += n
	return b.file.Write(p)
}

// maxShallow is how many commits a fetch may name as its shallow ends; a clone has a few. For each that it does not know
// git looks through the folder of packs again, so that a request of some megabytes would keep it busy for minutes.
const maxShallow = 10_000

const shallowLine = "shallow "

// scanSize is the buffer that a request is searched with.
const scanSize = 32 << 10

// checkShallow counts the shallow ends that a request to git-upload-pack names. What is no pkt-line is git's to refuse.
func (b *Body) checkShallow() *Refusal {
	if b.size < maxShallow*int64(len(shallowLine)) {
		return nil
	}
	at, err := b.Seek(0, io.SeekCurrent)
	in := bufio.NewReaderSize(b, scanSize)
	for n := 0; err == nil; {
		var found bool
		if found, err = skipPkt(in, shallowLine); found {
			n++
		}
		if n > maxShallow {
			return &Refusal{Status: http.StatusRequestEntityTooLarge, Text: fmt.Sprintf("more than %d shallow commits", maxShallow)}
		}
	}
	if _, err := b.Seek(at, io.SeekStart); err != nil {
		return &Refusal{Status: http.StatusInternalServerError, Text: "the request cannot be read again"}
	}
	return nil
}

func errTooLarge() error {
	return &Refusal{Status: http.StatusRequestEntityTooLarge, Text: "the request is too large"}
}

// refuseBody blames the client for what is its fault. An error of this machine's disk stays as it is.
func refuseBody(err error) error {
	var refusal *Refusal
	var disk *fs.PathError
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &refusal), errors.As(err, &disk):
		return err
	case errors.As(err, &tooLarge):
		return errTooLarge()
	case errors.Is(err, context.Canceled), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ECONNRESET):
		return &Refusal{Status: http.StatusRequestTimeout, Text: "the request did not arrive"}
	}
	return &Refusal{Status: http.StatusBadRequest, Text: "the request body is broken: " + strconv.Quote(err.Error())}
}

// armedReader gives a client new time with each read.
type armedReader struct {
	r   io.Reader
	arm func()
}

func (b *armedReader) Read(p []byte) (int, error) {
	b.arm()
	return b.r.Read(p)
}
