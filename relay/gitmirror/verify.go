package gitmirror

import (
	"context"
	"crypto/sha1" //nolint:gosec // it is what git names its files by
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/relay/smarthttp"
)

// verifyBuffer is how many bytes are read at once; each such read waits for its turn.
const verifyBuffer = 1 << 20

// Pace waits until n more bytes may be read; nil: at once.
type Pace func(ctx context.Context, n int) error

// BadPack is what is wrong with a part of the object store.
type BadPack struct {
	Name   string `json:"name"` // pack-<hash>, a file of the index of all packs, or store.git when objects are missing
	Size   int64  `json:"size"` // in bytes
	Reason string `json:"reason"`
}

// Kept is a repository of a release that is here, with the layers that its objects can be made of again.
type Kept struct {
	Repository
	Layers []Layer
	Served bool // its objects must be there; else those that are there must be complete
}

// Packs lists what CheckPack looks at, sorted: the packs that git sees, also those of which a file is lost.
func (m *Mirror) Packs() ([]string, error) {
	names, err := m.packFiles()
	if err != nil {
		return nil, fmt.Errorf("list git packs: %w", err)
	}
	var packs []string
	for _, name := range names {
		if hash, ok := packHash(name, ".idx"); ok { // git sees a pack by its index
			packs = append(packs, "pack-"+hash)
		}
	}
	return packs, nil
}

// CheckPack reads a pack and its index again from the disk, and gives what is wrong with it: nil if nothing is, or if it
// was collected meanwhile. A pack is named after its bytes, so that reading it at the caller's pace finds what a disk does.
// What only git can tell, whether the index is that of the pack, git is asked then. It holds nobody up.
//
// What is wrong once and then right is told as flaky: good bytes must not go for what a bad moment of the memory made of
// them. Errors are ctx's, pace's, and those of running git.
func (m *Mirror) CheckPack(ctx context.Context, name string, pace Pace) (bad *BadPack, flaky bool, err error) {
	if pace == nil {
		pace = func(ctx context.Context, _ int) error { return ctx.Err() }
	}
	hash, ok := packHash(name+".idx", ".idx")
	if !ok {
		return nil, false, fmt.Errorf("check git pack %.100q: is no name of a pack", name)
	}
	c := &packCheck{m: m, hash: hash, pace: pace}
	for try := range 2 {
		bad, err = c.run(ctx)
		if err != nil {
			return nil, false, fmt.Errorf("check git pack %s: %w", name, err)
		}
		if bad == nil {
			return nil, try > 0 && c.there(), nil
		}
	}
	return bad, false, nil
}

type packCheck struct {
	m    *Mirror
	hash string
	pace Pace
	size int64
}

func (c *packCheck) path(ext string) string {
	return filepath.Join(c.m.packDir(), "pack-"+c.hash+ext)
}

// there reports whether git still sees the pack. A collection takes the index first, so that a pack is never without one
// because of it, and an index never without its pack.
func (c *packCheck) there() bool {
	_, err := os.Lstat(c.path(".idx"))
	return !errors.Is(err, fs.ErrNotExist)
}

func (c *packCheck) run(ctx context.Context) (*BadPack, error) {
	var reason error
	if reason = c.read(ctx); reason == nil {
		reason = c.ask(ctx)
	}
	var wrong *wrongError
	switch {
	case reason == nil || ctx.Err() == nil && !c.there():
		return nil, nil
	case errors.As(reason, &wrong):
		return &BadPack{Name: "pack-" + c.hash, Size: c.size, Reason: wrong.Error()}, nil
	}
	return nil, reason
}

// wrongError is what is wrong with a file, as opposed to what keeps it from being looked at.
type wrongError struct{ err error }

func (e *wrongError) Error() string { return e.err.Error() }
func (e *wrongError) Unwrap() error { return e.err }

func wrong(format string, args ...any) error { return &wrongError{fmt.Errorf(format, args...)} }

// read holds the files against their checksums, and those against the pack's name.
func (c *packCheck) read(ctx context.Context) error {
	c.size = 0
	pack, err := sumFile(ctx, c.path(".pack"), c.pace)
	c.size = pack.size
	if err != nil {
		return err
	}
	if hex.EncodeToString(pack.sum[:]) != c.hash {
		return wrong("pack: its bytes are those of pack-%x", pack.sum)
	}
	index, err := sumFile(ctx, c.path(".idx"), c.pace)
	if err != nil {
		return err
	}
	if hex.EncodeToString(index.before[:]) != c.hash {
		return wrong("idx: is the index of pack-%x", index.before)
	}
	return nil
}

// ask lets git unpack every object and compare the index with what it finds. It does that where it sees no other pack: a
// damaged one must not make a good one look damaged.
func (c *packCheck) ask(ctx context.Context) error {
	err := c.m.git.Run(ctx, c.m.path(homeName), "index-pack", "--verify", c.path(".pack"))
	if refused, ok := smarthttp.RefusedInput(err); ok {
		return wrong("%w", refused)
	}
	return err
}

// summed is a file of git's that ends with the SHA-1 of what stands before.
type summed struct {
	size   int64
	sum    [sha1.Size]byte // computed, and the file's last bytes
	before [sha1.Size]byte // what stands before it: in an index, the checksum of the pack
}

// sumFile reads a file and compares it with its checksum: a *wrongError if it has another one, or cannot be read.
func sumFile(ctx context.Context, path string, pace Pace) (s summed, err error) {
	ext := filepath.Ext(path)
	if ext == "" {
		ext = filepath.Base(path)
	}
	ext = strings.TrimPrefix(ext, ".")
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, wrong("%s: is lost", ext)
	}
	if err != nil {
		return s, readError(ext, err)
	}
	if !fi.Mode().IsRegular() { // to open a pipe would block
		return s, wrong("%s: is no file but %s", ext, fi.Mode())
	}
	if s.size = fi.Size(); s.size < 2*sha1.Size {
		return s, wrong("%s: has %d bytes only", ext, s.size)
	}
	f, err := os.Open(path)
	if err != nil {
		return s, readError(ext, err)
	}
	defer f.Close() //nolint:errcheck // only read from
	// What is in memory says nothing about the disk, and what robots pull often stays in memory.
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	h := sha1.New() //nolint:gosec // see above
	var tail []byte // the last bytes, which are not summed
	if err := readPaced(ctx, f, s.size, h, &tail, pace, ext); err != nil {
		return s, err
	}
	var want [sha1.Size]byte
	copy(want[:], tail[sha1.Size:])
	copy(s.before[:], tail[:sha1.Size])
	h.Write(s.before[:])
	copy(s.sum[:], h.Sum(nil))
	if s.sum != want {
		return s, wrong("%s: its checksum is %x, it says %x", ext, s.sum, want)
	}
	return s, nil
}

// readPaced hashes all but the last two sums of a file, which it gives in tail.
func readPaced(ctx context.Context, r io.Reader, size int64, h hash.Hash, tail *[]byte, pace Pace, ext string) error {
	buf := make([]byte, min(size, verifyBuffer))
	for left := size; left > 0; {
		n := int(min(left, int64(len(buf))))
		if err := pace(ctx, n); err != nil {
			return err
		}
		if _, err := io.ReadFull(r, buf[:n]); err != nil {
			return readError(ext, err)
		}
		left -= int64(n)
		*tail = append(*tail, buf[:n]...)
		if over := len(*tail) - 2*sha1.Size; over > 0 {
			h.Write((*tail)[:over])
			*tail = append((*tail)[:0], (*tail)[over:]...)
		}
	}
	return nil
}

// readError tells a disk that does not give its bytes from what says nothing about them.
func readError(ext string, err error) error {
	if errors.Is(err, unix.EIO) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return wrong("%s: %w", ext, err)
	}
	return err
}

// CheckWhole gives what is wrong with the store beyond single packs, whose soundness it takes for granted: the index of
// all packs, and what kept repositories lead to. A store is closed, so that a hole tells of a pack that was lost.
func (m *Mirror) CheckWhole(ctx context.Context, kept []Kept) ([]BadPack, error) {
	bad, err := m.checkMidx(ctx)
	if err != nil {
		return nil, fmt.Errorf("check git index of packs: %w", err)
	}
	if len(bad) > 0 {
		return bad, nil // git would stumble over it; it goes first
	}
	for range 2 { // a collection that goes on meanwhile takes packs from under git
		hole, err := m.hole(ctx, m.path(storeName), kept)
		if err != nil {
			return nil, fmt.Errorf("check git objects: %w", err)
		}
		if hole == nil {
			return nil, nil
		}
		bad = []BadPack{*hole}
	}
	return bad, nil
}

// checkMidx looks at the index of all packs and its bitmaps.
func (m *Mirror) checkMidx(ctx context.Context) (bad []BadPack, err error) {
	pace := func(ctx context.Context, _ int) error { return ctx.Err() }
	files, err := m.midxFiles()
	if err != nil {
		return nil, err
	}
	for _, name := range files {
		path := filepath.Join(m.packDir(), name)
		s, err := sumFile(ctx, path, pace)
		var wrong *wrongError
		if errors.As(err, &wrong) { // once more: memory, or another one has come in its place
			s, err = sumFile(ctx, path, pace)
		}
		if errors.As(err, &wrong) {
			if _, statErr := os.Lstat(path); statErr == nil {
				bad = append(bad, BadPack{Name: name, Size: s.size, Reason: wrong.Error()})
			}
		} else if err != nil {
			return nil, err
		}
	}
	if len(bad) > 0 || !slices.Contains(files, midxName) {
		return bad, nil
	}
	for range 2 {
		err = m.git.Run(ctx, m.path(storeName), "multi-pack-index", "verify")
		if _, statErr := os.Lstat(filepath.Join(m.packDir(), midxName)); err == nil || errors.Is(statErr, fs.ErrNotExist) {
			return nil, ctx.Err()
		}
	}
	if refused, ok := smarthttp.RefusedInput(err); ok {
		return []BadPack{{Name: midxName, Reason: refused.Error()}}, nil
	}
	return nil, err
}

func (m *Mirror) midxFiles() (files []string, err error) {
	names, err := m.packFiles()
	for _, name := range names {
		if midxFile.MatchString(name) {
			files = append(files, name)
		}
	}
	return files, err
}

// hole asks git whether what kept repositories lead to is in dir.
func (m *Mirror) hole(ctx context.Context, dir string, kept []Kept) (*BadPack, error) {
	var tips, ids []string
	served := make(map[string]string) // id → whose it is
	for _, k := range kept {
		if err := checkGit(k.Path, k.Git); err != nil {
			return nil, err
		}
		for _, ref := range k.Git.Refs {
			ids = append(ids, ref.OID)
			if k.Served {
				served[ref.OID] = k.Path + ": " + ref.Name
			}
		}
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if packs, err := m.Packs(); err != nil || len(packs) == 0 && len(served) == 0 {
		return nil, err // nothing to ask, on a box that may have no git
	}
	lost := ""
	err := m.lookUp(ctx, dir, ids, func(id string, o object) error {
		switch {
		case o.kind != "":
			tips = append(tips, id)
		case served[id] != "" && lost == "":
			lost = served[id] + ": object " + id + " is missing"
		}
		return nil
	})
	if err == nil && lost == "" && len(tips) > 0 {
		err = m.git.Lines(ctx, dir, strings.NewReader(strings.Join(tips, "\n")+"\n"), func(string) error { return nil },
			"rev-list", "--objects", "--quiet", "--stdin")
	}
	if refused, ok := smarthttp.RefusedInput(err); ok {
		lost = refused.Error()
	} else if err != nil {
		return nil, err
	}
	if lost == "" {
		return nil, nil
	}
	return &BadPack{Name: storeName, Reason: lost}, nil
}
