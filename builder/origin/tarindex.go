package origin

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/plimsoll/plimsoll/bundle"
)

// Limits of a tar that is read in place.
const (
	maxTarEntries = 65_536
	maxTarNames   = 16 << 20 // bytes of all names and link targets
	maxTarLinks   = 8        // links that lead from one to the next
)

// tarIndex says where the entries of a tar are. Nothing is unpacked.
type tarIndex struct {
	r       io.ReaderAt
	entries map[string]tarEntry // by clean name; without folders
}

type tarEntry struct {
	kind         byte // as in tar.Header.Typeflag
	offset, size int64
	link         string
}

// openRegular opens without waiting for the writer of a named pipe that stands in the place of a file.
func openRegular(open func(string, int, fs.FileMode) (*os.File, error), name string) (*os.File, int64, error) {
	f, err := open(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a regular file", name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, fi.Size(), nil
}

// packings are compressions that a file can have, by its first bytes.
var packings = []struct{ name, magic, undo string }{
	{"gzip", "\x1f\x8b\x08", "gunzip"},
	{"zstd", "\x28\xb5\x2f\xfd", "unzstd"},
	{"xz", "\xfd7zXZ\x00", "unxz"},
}

// packing names the compression of what starts at an offset, and the command that undoes it.
func packing(r io.ReaderAt, offset int64) (name, undo string) {
	var head [10]byte
	n, _ := r.ReadAt(head[:], offset)
	for _, p := range packings {
		if bytes.HasPrefix(head[:n], []byte(p.magic)) {
			return p.name, p.undo
		}
	}
	// A plain tar begins with the name of a file, which may be BZh.
	if bytes.HasPrefix(head[:n], []byte("BZh")) && bytes.HasSuffix(head[:n], []byte("1AY&SY")) {
		return "bzip2", "bunzip2"
	}
	return "", ""
}

// indexTar reads all headers of a tar once.
func indexTar(ctx context.Context, r io.ReaderAt, size int64) (*tarIndex, error) {
	if name, undo := packing(r, 0); name != "" {
		return nil, fmt.Errorf("compressed with %s; it is read in place, so %s it first", name, undo)
	}
	// archive/tar reads headers without a buffer and seeks over the rest, so the position behind a header is the place of
	// the content.
	in := io.NewSectionReader(r, 0, size)
	tr := tar.NewReader(in)
	t := &tarIndex{r: r, entries: make(map[string]tarEntry)}
	var names int
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := tr.Next()
		switch {
		case errors.Is(err, io.EOF):
			return t, nil
		case err != nil && n == 0:
			return nil, fmt.Errorf("not a tar: %w", err)
		case err != nil:
			return nil, fmt.Errorf("entry %d: %w", n, err)
		case n >= maxTarEntries:
			return nil, fmt.Errorf("more than %d entries", maxTarEntries)
		}
		if names += len(h.Name) + len(h.Linkname); names > maxTarNames {
			return nil, fmt.Errorf("more than %d bytes of names", maxTarNames)
		}
		offset, err := in.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if err := t.add(h, offset, size); err != nil {
			return nil, err
		}
	}
}

func (t *tarIndex) add(h *tar.Header, offset, size int64) error {
	shown := visible(h.Name, maxErrorDetail)
	name := path.Clean(h.Name)
	if len(name) > bundle.MaxPath || !isInside(name) {
		return fmt.Errorf("entry %q: the name leads outside or is longer than %d bytes", shown, bundle.MaxPath)
	}
	if h.Typeflag == tar.TypeDir {
		return nil
	}
	if h.Typeflag == tar.TypeGNUSparse {
		return fmt.Errorf("entry %q: a sparse file is not allowed", shown)
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return fmt.Errorf("entry %q: a sparse file is not allowed", shown)
		}
	}
	if _, dup := t.entries[name]; dup {
		return fmt.Errorf("entry %q is there twice", shown)
	}
	if h.Size < 0 || h.Size > size-offset {
		return fmt.Errorf("entry %q: %w: %d bytes declared, %d are there", shown, io.ErrUnexpectedEOF, h.Size, size-offset)
	}
	t.entries[name] = tarEntry{kind: h.Typeflag, offset: offset, size: h.Size, link: h.Linkname}
	return nil
}

// isInside reports whether a clean path stays where it starts.
func isInside(name string) bool {
	return !path.IsAbs(name) && name != "." && name != ".." && !strings.HasPrefix(name, "../") && !strings.ContainsAny(name, "\\\x00")
}

func (t *tarIndex) has(name string) bool {
	_, ok := t.entries[name]
	return ok
}

// regular gives the place of a file that is one itself.
func (t *tarIndex) regular(name string) (tarEntry, error) {
	e, ok := t.entries[name]
	if !ok {
		return e, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	if e.kind != tar.TypeReg {
		return e, fmt.Errorf("%s: an entry of type %q, want a regular file", name, e.kind)
	}
	return e, nil
}

// follow gives the place of a file, by way of links within the tar: docker save writes a layer once, and links to it.
func (t *tarIndex) follow(name string) (tarEntry, error) {
	at := path.Clean(name)
	for range maxTarLinks {
		e, ok := t.entries[at]
		if !ok {
			return e, fmt.Errorf("%s: %w", visible(at, maxErrorDetail), fs.ErrNotExist)
		}
		switch e.kind {
		case tar.TypeSymlink:
			at = path.Join(path.Dir(at), e.link)
			if path.IsAbs(e.link) {
				at = e.link
			}
		case tar.TypeLink:
			at = path.Clean(e.link)
		default:
			return t.regular(at)
		}
		if !isInside(at) {
			return e, fmt.Errorf("%s: a link to %q, which is outside", visible(name, maxErrorDetail), visible(e.link, maxErrorDetail))
		}
	}
	return tarEntry{}, fmt.Errorf("%s: more than %d links", visible(name, maxErrorDetail), maxTarLinks)
}

// open gives a reader over an entry.
func (t *tarIndex) open(e tarEntry) *io.SectionReader {
	return io.NewSectionReader(t.r, e.offset, e.size)
}

// readSmall reads an entry whole.
func (t *tarIndex) readSmall(e tarEntry, name string, limit int64) ([]byte, error) {
	if e.size > limit {
		return nil, fmt.Errorf("%s: %d bytes, the limit is %d", visible(name, maxErrorDetail), e.size, limit)
	}
	data := make([]byte, e.size)
	if _, err := io.ReadFull(t.open(e), data); err != nil {
		return nil, fmt.Errorf("%s: %w", visible(name, maxErrorDetail), err)
	}
	return data, nil
}
