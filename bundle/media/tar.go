package media

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

// maxTarEntries bounds the work and the memory of the scan: every blob of the largest bundle, and something beside it.
const maxTarEntries = bundle.MaxBlobs + 4096

// section is where the bytes of an entry are in a tar.
type section struct{ offset, size int64 }

// tarBlobs are the blobs of a layout in a tar, read in place: nothing is unpacked.
type tarBlobs struct {
	f     *os.File
	files map[string]section // by clean name: blobs, oci-layout and index.json
}

func openTar(ctx context.Context, r reference) (*layout, error) {
	f, err := os.Open(r.path)
	if err != nil {
		return nil, err
	}
	l, err := readTar(ctx, r, f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

func readTar(ctx context.Context, r reference, f *os.File) (*layout, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	files, err := scanTar(ctx, f, fi.Size())
	if err != nil {
		return nil, tarError(r, f, err)
	}
	t := &tarBlobs{f: f, files: files}
	var small [2][]byte
	for i, name := range []string{ocispec.ImageLayoutFile, ocispec.ImageIndexFile} {
		s, ok := files[name]
		if !ok {
			return nil, r.errorf("not an OCI image layout in a tar: it has no file %s", name)
		}
		if small[i], err = readLimited(io.NewSectionReader(f, s.offset, s.size), name, s.size, []int64{maxLayout, maxIndex}[i]); err != nil {
			return nil, fmt.Errorf("%s: %w", r.path, err)
		}
	}
	return newLayout(r, t, small[0], small[1])
}

// tarError tells a file that is no tar at all from one that is broken.
func tarError(r reference, f io.ReaderAt, err error) error {
	var magic [6]byte
	if n, _ := f.ReadAt(magic[:], 0); n == len(magic) {
		for name, prefix := range map[string]string{"gzip": "\x1f\x8b", "zstd": "\x28\xb5\x2f\xfd", "xz": "\xfd7zXZ\x00", "bzip2": "BZh"} {
			if strings.HasPrefix(string(magic[:]), prefix) {
				return r.errorf("compressed with %s; blobs are read in place, unpack it to a plain tar first", name)
			}
		}
	}
	if errors.Is(err, errNoTar) {
		return r.errorf("%v", err)
	}
	return fmt.Errorf("%s: %w", r.path, err)
}

var errNoTar = errors.New("neither a folder nor a tar")

// scanTar reads all headers of a tar once and gives the places of the files that belong to a layout.
func scanTar(ctx context.Context, r io.ReaderAt, size int64) (map[string]section, error) {
	// archive/tar reads headers without a buffer and seeks over the rest, so the position behind a header is the place of
	// the content.
	in := io.NewSectionReader(r, 0, size)
	tr := tar.NewReader(in)
	files := make(map[string]section)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil && n == 0 {
			return nil, fmt.Errorf("%w: %w", errNoTar, err)
		}
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", n, err)
		}
		if n >= maxTarEntries {
			return nil, fmt.Errorf("more than %d entries", maxTarEntries)
		}
		name, err := entryName(h)
		if err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeDir || !belongs(name) {
			continue
		}
		if _, dup := files[name]; dup {
			return nil, fmt.Errorf("entry %q is there twice", name)
		}
		offset, err := in.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if h.Size > size-offset {
			return nil, fmt.Errorf("entry %q: %w: %d bytes declared, %d are there", name, io.ErrUnexpectedEOF, h.Size, size-offset)
		}
		files[name] = section{offset, h.Size}
	}
}

// entryName gives the clean name of a regular file or folder and refuses every other kind of entry, wherever it stands:
// an honest layout has none.
func entryName(h *tar.Header) (string, error) {
	if h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir {
		return "", fmt.Errorf("entry %q: type %q is not allowed", h.Name, h.Typeflag)
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return "", fmt.Errorf("entry %q: a sparse file is not allowed", h.Name)
		}
	}
	name := path.Clean(h.Name)
	if path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../") || strings.ContainsAny(name, "\\\x00") {
		return "", fmt.Errorf("entry %q: the name leads outside", h.Name)
	}
	return name, nil
}

// belongs reports whether a clean name is part of a layout: everything else is passed over.
func belongs(name string) bool {
	if name == ocispec.ImageLayoutFile || name == ocispec.ImageIndexFile {
		return true
	}
	rest, ok := strings.CutPrefix(name, ocispec.ImageBlobsDir+"/")
	if !ok {
		return false
	}
	algorithm, encoded, ok := strings.Cut(rest, "/")
	return ok && digest.NewDigestFromEncoded(digest.Algorithm(algorithm), encoded).Validate() == nil
}

func (t *tarBlobs) openAt(desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	s, ok := t.files[blobPath(desc.Digest)]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, fs.ErrNotExist)
	}
	return openSection(t.f, desc, s, offset)
}

func openSection(f io.ReaderAt, desc ocispec.Descriptor, s section, offset int64) (io.ReadCloser, error) {
	if s.size != desc.Size {
		return nil, &bundle.DamagedError{Descriptor: desc, Size: s.size}
	}
	return io.NopCloser(io.NewSectionReader(f, s.offset+offset, s.size-offset)), nil
}

func (t *tarBlobs) Close() error { return t.f.Close() }
