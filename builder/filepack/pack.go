// Package filepack packs a folder into one layer that ORAS unpacks: a gzipped tar.
//
// The layer depends on names, contents, symbolic links and who may execute a file, and on nothing else: not on times,
// owners, other permissions, hard links or the order in which the file system lists. As in package chartpack the deflate
// encoder is one whose version go.mod pins.
package filepack

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

// Limits of a folder.
const (
	MaxEntries = 1 << 20        // files, links and folders
	MaxPath    = bundle.MaxPath // bytes of a path in the layer
)

// Annotations by which ORAS knows a folder.
const (
	AnnotationUnpack       = "io.deis.oras.content.unpack" // "true"
	AnnotationUncompressed = "io.deis.oras.content.digest" // of the tar
)

// Layer is what Pack wrote.
type Layer struct {
	Name         string        // of the folder that unpacking makes
	Digest       digest.Digest // of the gzipped tar
	Size         int64         // of the gzipped tar, in bytes
	Uncompressed digest.Digest // of the tar
	Files        int           // files and symbolic links, folders not counted
}

// Descriptor describes the layer as ORAS does.
func (l Layer) Descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{
		MediaType: bundle.MediaTypeFolder, Digest: l.Digest, Size: l.Size,
		Annotations: map[string]string{
			ocispec.AnnotationTitle: l.Name, AnnotationUnpack: "true", AnnotationUncompressed: l.Uncompressed.String(),
		},
	}
}

// Pack writes the folder dir to w under a name, by default the folder's own. Nothing outside dir is read, whatever links
// say and whoever changes the folder meanwhile.
//
// Errors: *RefusedError, *ChangedError, those of the file system and of w, and ctx's.
func Pack(ctx context.Context, dir, name string, w io.Writer) (Layer, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Layer{}, fmt.Errorf("pack folder %s: %w", dir, err)
	}
	name = cmp.Or(name, filepath.Base(abs))
	if err := checkName(name); err != nil {
		return Layer{}, &RefusedError{Dir: dir, Path: ".", Reason: err.Error()}
	}
	root, err := os.OpenRoot(abs)
	if err != nil {
		return Layer{}, fmt.Errorf("pack folder %s: %w", dir, err)
	}
	defer root.Close() //nolint:errcheck // only read
	packed := newDigester(w)
	zipped := gzip.NewWriter(packed)
	zipped.ModTime = time.Unix(0, 0) // written as 0, "none"; see chartpack
	plain := newDigester(zipped)
	p := &packer{ctx: ctx, dir: dir, name: name, root: root, tar: tar.NewWriter(plain), buf: make([]byte, 64<<10)}
	info, err := root.Stat(".")
	if err == nil {
		err = p.folder(".", info)
	}
	if err == nil {
		err = p.tar.Close()
	}
	if err == nil {
		err = zipped.Close()
	}
	var refused *RefusedError
	var changed *ChangedError
	switch {
	case errors.As(err, &refused), errors.As(err, &changed), err != nil && ctx.Err() != nil:
		return Layer{}, err
	case err != nil:
		return Layer{}, fmt.Errorf("pack folder %s: %w", dir, err)
	}
	return Layer{Name: name, Digest: packed.digest(), Size: packed.n, Uncompressed: plain.digest(), Files: p.files}, nil
}

// checkName allows what a client may make a folder of: a clean relative path.
func checkName(name string) error {
	if !fs.ValidPath(name) || name == "." || strings.ContainsAny(name, "\\\x00") {
		return fmt.Errorf("name %q: want a clean relative path", name)
	}
	return checkPath(name)
}

func checkPath(name string) error {
	if len(name) > MaxPath {
		return fmt.Errorf("its path has %d bytes, the limit is %d", len(name), MaxPath)
	}
	if !utf8.ValidString(name) {
		return errors.New("its name is not UTF-8")
	}
	return nil
}

type packer struct {
	ctx     context.Context
	dir     string // as given, for errors
	name    string
	root    *os.Root
	tar     *tar.Writer
	buf     []byte
	entries int
	files   int
}

func (p *packer) refuse(at, format string, args ...any) error {
	return &RefusedError{Dir: p.dir, Path: at, Reason: fmt.Sprintf(format, args...)}
}

// folder packs a folder and what is in it, sorted by name; seen is what stood there when it was chosen.
func (p *packer) folder(at string, seen fs.FileInfo) error {
	if err := p.header(tar.Header{Typeflag: tar.TypeDir, Name: path.Join(p.name, at) + "/", Mode: 0o755}); err != nil {
		return err
	}
	names, err := p.list(at, seen)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		if err := p.entry(path.Join(at, name)); err != nil {
			return err
		}
	}
	return nil
}

// list reads the names in a folder, which may be more than there is room for.
func (p *packer) list(at string, seen fs.FileInfo) ([]string, error) {
	const atOnce = 1024
	f, _, err := p.open(at, seen)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	var names []string
	for {
		some, err := f.Readdirnames(atOnce)
		names = append(names, some...)
		if p.entries+len(names) > MaxEntries {
			return nil, p.refuse(at, "more than %d entries in all", MaxEntries)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	p.entries += len(names)
	slices.Sort(names)
	return names, nil
}

// open opens what was seen at a path. It does not follow a link, nor wait for the other end of a pipe, that came there
// meanwhile.
func (p *packer) open(at string, seen fs.FileInfo) (_ *os.File, info fs.FileInfo, err error) {
	f, err := p.root.OpenFile(filepath.FromSlash(at), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	if info, err = f.Stat(); err == nil && (!os.SameFile(seen, info) || info.Mode().Type() != seen.Mode().Type()) {
		err = &ChangedError{Dir: p.dir, Path: at, Reason: "something else is in its place"}
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

func (p *packer) entry(at string) error {
	if err := checkPath(path.Join(p.name, at)); err != nil {
		return p.refuse(at, "%v", err)
	}
	info, err := p.root.Lstat(filepath.FromSlash(at))
	if err != nil {
		return err
	}
	switch info.Mode().Type() {
	case 0:
		return p.file(at, info)
	case fs.ModeDir:
		return p.folder(at, info)
	case fs.ModeSymlink:
		return p.link(at)
	}
	return p.refuse(at, "it is a %s, want a file, a folder or a symbolic link", kindOf(info.Mode()))
}

func kindOf(m fs.FileMode) string {
	switch {
	case m&fs.ModeDevice != 0:
		return "device"
	case m&fs.ModeNamedPipe != 0:
		return "named pipe"
	case m&fs.ModeSocket != 0:
		return "socket"
	}
	return m.Type().String()
}

// file packs a file; seen is what stood there when it was chosen.
func (p *packer) file(at string, seen fs.FileInfo) error {
	f, before, err := p.open(at, seen)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	mode := int64(0o644)
	if before.Mode()&0o111 != 0 {
		mode = 0o755
	}
	p.files++
	if err := p.header(tar.Header{Typeflag: tar.TypeReg, Name: path.Join(p.name, at), Mode: mode, Size: before.Size()}); err != nil {
		return err
	}
	content := &contextReader{ctx: p.ctx, r: f}
	n, err := io.CopyBuffer(onlyWriter{p.tar}, io.LimitReader(content, before.Size()), p.buf)
	if err != nil {
		return err
	}
	after, err := f.Stat()
	if err != nil {
		return err
	}
	if n != before.Size() || after.Size() != before.Size() {
		return &ChangedError{Dir: p.dir, Path: at, Reason: fmt.Sprintf("it had %d bytes, %d were read, it has %d", before.Size(), n, after.Size())}
	}
	if !after.ModTime().Equal(before.ModTime()) || after.Mode() != before.Mode() {
		return &ChangedError{Dir: p.dir, Path: at, Reason: "it was written to"}
	}
	return nil
}

// link packs a symbolic link that leads to something in the folder: by its text, which is what unpackers look at, and
// by where it leads through other links.
func (p *packer) link(at string) error {
	local := filepath.FromSlash(at)
	target, err := p.root.Readlink(local)
	if err != nil {
		return err
	}
	target = filepath.ToSlash(target)
	if err := checkPath(target); err != nil {
		return p.refuse(at, "a symbolic link: %v", err)
	}
	if path.IsAbs(target) || !filepath.IsLocal(path.Join(path.Dir(at), target)) {
		return p.refuse(at, "a symbolic link to %s, which is outside", target)
	}
	switch _, err := p.root.Stat(local); {
	case errors.Is(err, fs.ErrNotExist):
		return p.refuse(at, "a symbolic link to %s, which is not there", target)
	case err != nil:
		return p.refuse(at, "a symbolic link to %s: %v", target, err)
	}
	p.files++
	return p.header(tar.Header{Typeflag: tar.TypeSymlink, Name: path.Join(p.name, at), Linkname: target, Mode: 0o777})
}

func (p *packer) header(h tar.Header) error {
	h.ModTime = time.Unix(0, 0)
	return p.tar.WriteHeader(&h)
}

// digester hashes and counts what passes through to w.
type digester struct {
	w io.Writer
	h hash.Hash
	n int64
}

func newDigester(w io.Writer) *digester { return &digester{w: w, h: sha256.New()} }

func (d *digester) Write(b []byte) (int, error) {
	n, err := d.w.Write(b)
	d.h.Write(b[:n])
	d.n += int64(n)
	return n, err
}

func (d *digester) digest() digest.Digest { return digest.NewDigest(digest.SHA256, d.h) }

// onlyWriter hides tar.Writer's ReadFrom, which would leave the buffer unused.
type onlyWriter struct{ io.Writer }

// contextReader ends a copy when ctx does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}
