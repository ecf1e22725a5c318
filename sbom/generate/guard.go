package generate

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// maxTarName bounds names and link targets in a layer: PATH_MAX of Linux, beyond which nothing can be unpacked anyway.
const maxTarName = 4096

// LayerError says why a layer is not looked into.
type LayerError struct {
	Layer  int     // its place in the image, from 0
	DiffID v1.Hash // what the config says that it unpacks to
	Entry  string  // the tar entry, if it was one
	Err    error
}

func (e *LayerError) Error() string {
	text := fmt.Sprintf("layer %d (%s)", e.Layer, e.DiffID)
	if e.Entry != "" {
		text += fmt.Sprintf(": entry %.80q", e.Entry)
	}
	return text + ": " + e.Err.Error()
}

func (e *LayerError) Unwrap() error { return e.Err }

// The reasons of a LayerError that are no error of a decoder.
var (
	ErrTooBig     = errors.New("unpacks to more than is allowed")
	ErrTooMany    = errors.New("has more entries than are allowed")
	ErrOutside    = errors.New("leaves the layer")
	ErrLongName   = errors.New("has a name that is too long")
	ErrWrongBytes = errors.New("does not unpack to the bytes that the config names")
)

// guard is an image whose layers are checked while they are unpacked: how much comes out, that it is a tar whose entries
// stay inside, and that it is what the config names. Whoever reads the unpacked layer reads checked bytes.
type guard struct {
	v1.Image
	maxBytes, maxEntries int64
	bytes, entries       atomic.Int64 // of all layers together

	mu    sync.Mutex
	first error // the first refusal, which syft's error would bury in paths of the scratch folder
}

func newGuard(img v1.Image, o Options) *guard {
	g := &guard{Image: img, maxBytes: o.MaxUnpacked, maxEntries: o.MaxEntries}
	if g.maxBytes <= 0 {
		g.maxBytes = DefaultMaxUnpacked
	}
	if g.maxEntries <= 0 {
		g.maxEntries = DefaultMaxEntries
	}
	return g
}

// Layers implements v1.Image.
func (g *guard) Layers() ([]v1.Layer, error) {
	config, err := g.ConfigFile()
	if err != nil {
		return nil, err
	}
	layers, err := g.Image.Layers()
	if err != nil {
		return nil, err
	}
	if len(layers) != len(config.RootFS.DiffIDs) {
		return nil, fmt.Errorf("%d layers, and the config names %d", len(layers), len(config.RootFS.DiffIDs))
	}
	guarded := make([]v1.Layer, len(layers))
	for i, layer := range layers {
		guarded[i] = &guardedLayer{Layer: layer, guard: g, index: i, diffID: config.RootFS.DiffIDs[i]}
	}
	return guarded, nil
}

func (g *guard) refuse(err error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.first == nil {
		g.first = err
	}
	return err
}

// refusal is the first refusal of a layer, or err when it was not a layer.
func (g *guard) refusal(err error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.first != nil {
		return g.first
	}
	return err
}

type guardedLayer struct {
	v1.Layer
	guard  *guard
	index  int
	diffID v1.Hash
}

// DiffID implements v1.Layer without unpacking the layer once more.
func (l *guardedLayer) DiffID() (v1.Hash, error) { return l.diffID, nil }

// Uncompressed implements v1.Layer.
func (l *guardedLayer) Uncompressed() (io.ReadCloser, error) {
	src, err := l.Layer.Uncompressed()
	if err != nil {
		return nil, l.guard.refuse(l.wrap("", err))
	}
	pr, pw := io.Pipe()
	r := &guardedReader{layer: l, src: src, hash: sha256.New(), pipe: pw, scanned: make(chan error, 1)}
	go func() { // waited for by finish
		err := l.scan(pr)
		pr.CloseWithError(err) // lets the reader go on when the scan does not
		r.scanned <- err
	}()
	return r, nil
}

func (l *guardedLayer) wrap(entry string, err error) error {
	var already *LayerError
	if errors.As(err, &already) {
		return err
	}
	return &LayerError{Layer: l.index, DiffID: l.diffID, Entry: entry, Err: err}
}

// scan reads the unpacked layer beside its consumer and refuses what no honest builder makes.
func (l *guardedLayer) scan(r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, r) // padding; the writer must not block
			return err
		}
		if err != nil {
			return l.wrap("", err)
		}
		switch {
		case l.guard.entries.Add(1) > l.guard.maxEntries:
			return l.wrap(h.Name, ErrTooMany)
		case len(h.Name) > maxTarName || len(h.Linkname) > maxTarName:
			return l.wrap(h.Name, ErrLongName)
		case leaves(h.Name) || h.Typeflag == tar.TypeLink && leaves(h.Linkname):
			return l.wrap(h.Name, ErrOutside)
		}
	}
}

// leaves reports a name that climbs out. Symbolic links may do so: they are resolved inside the image.
func leaves(name string) bool {
	if !slices.Contains(strings.Split(name, "/"), "..") {
		return false
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	return clean == ".." || strings.HasPrefix(clean, "../")
}

// guardedReader hands on unpacked bytes and gives the verdict in place of the end.
type guardedReader struct {
	layer   *guardedLayer
	src     io.ReadCloser
	hash    hash.Hash
	pipe    *io.PipeWriter
	scanned chan error
	ended   bool
	verdict error
}

// Read implements io.Reader.
func (r *guardedReader) Read(p []byte) (int, error) {
	if r.ended {
		return 0, r.verdict
	}
	n, err := r.src.Read(p)
	if n > 0 {
		r.hash.Write(p[:n]) //nolint:errcheck // hash.Hash never fails
		if r.layer.guard.bytes.Add(int64(n)) > r.layer.guard.maxBytes {
			return 0, r.finish(ErrTooBig)
		}
		if _, werr := r.pipe.Write(p[:n]); werr != nil {
			return 0, r.finish(werr)
		}
	}
	if err != nil {
		return n, r.finish(err)
	}
	return n, nil
}

// finish waits for the scan and settles what the reader ends with.
func (r *guardedReader) finish(err error) error {
	end := errors.Is(err, io.EOF)
	if end {
		r.pipe.Close() //nolint:errcheck // never fails
	} else {
		r.pipe.CloseWithError(err) //nolint:errcheck // never fails
	}
	scanned := <-r.scanned
	r.ended = true
	switch {
	case !end:
		r.verdict = r.layer.guard.refuse(r.layer.wrap("", err))
	case scanned != nil:
		r.verdict = r.layer.guard.refuse(r.layer.wrap("", scanned))
	case r.layer.diffID.Algorithm != "sha256" || hex.EncodeToString(r.hash.Sum(nil)) != r.layer.diffID.Hex:
		r.verdict = r.layer.guard.refuse(r.layer.wrap("", ErrWrongBytes))
	default:
		r.verdict = io.EOF
	}
	return r.verdict
}

// Close implements io.Closer.
func (r *guardedReader) Close() error {
	if !r.ended {
		r.finish(io.ErrClosedPipe) //nolint:errcheck // the consumer had its reasons
	}
	return r.src.Close()
}
