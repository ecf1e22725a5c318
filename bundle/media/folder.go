package media

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

// folderBlobs are the blobs of a layout in a folder. os.Root keeps symbolic links and everything else inside it.
type folderBlobs struct{ root *os.Root }

func openFolder(_ context.Context, r reference) (*layout, error) {
	root, err := os.OpenRoot(r.path)
	if err != nil {
		return nil, err
	}
	l, err := readFolder(r, root)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return l, nil
}

func readFolder(r reference, root *os.Root) (*layout, error) {
	layoutFile, err := readSmall(root, ocispec.ImageLayoutFile, maxLayout)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, r.errorf("not an OCI image layout: it has no file %s%s", ocispec.ImageLayoutFile, unfinished(root))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.path, err)
	}
	indexFile, err := readSmall(root, ocispec.ImageIndexFile, maxIndex)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, r.errorf("not an OCI image layout: it has no file %s%s", ocispec.ImageIndexFile, unfinished(root))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.path, err)
	}
	return newLayout(r, folderBlobs{root}, layoutFile, indexFile)
}

// unfinished adds what to do to the error about a folder that a copy was cut in.
func unfinished(root *os.Root) string {
	if _, err := root.Lstat(ocispec.ImageBlobsDir); err == nil {
		return "; what was being written to it did not come to its end, repeat it"
	}
	return ""
}

// openRegular opens without waiting for the writer of a named pipe that stands in the place of a file.
func openRegular(root *os.Root, name string) (*os.File, int64, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
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

func readSmall(root *os.Root, name string, limit int64) ([]byte, error) {
	f, size, err := openRegular(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	return readLimited(f, name, size, limit)
}

func readLimited(r io.Reader, name string, size, limit int64) ([]byte, error) {
	if size > limit {
		return nil, fmt.Errorf("%s: %d bytes, the limit is %d", name, size, limit)
	}
	return io.ReadAll(io.LimitReader(r, size))
}

func (b folderBlobs) openAt(desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	f, size, err := openRegular(b.root, blobPath(desc.Digest))
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	if size != desc.Size {
		return nil, errors.Join(&bundle.DamagedError{Descriptor: desc, Size: size}, f.Close())
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (b folderBlobs) Close() error { return b.root.Close() }
