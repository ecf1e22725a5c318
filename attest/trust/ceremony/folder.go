// Package ceremony makes the metadata that package trust verifies: a folder in which roles are changed, signed on machines
// that have no network, put together again, and published.
//
// What is published lies in the folder under the names of package trust and is complete: exports go on with it while
// something new waits for signatures in pending/. A new version is published, durably, by the signature that makes it
// complete; a version that was published is never replaced by another one of the same number.
package ceremony

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/plimsoll/plimsoll/attest/trust"
	"github.com/plimsoll/plimsoll/internal/durable"
)

// pendingDir is the folder with what waits for signatures.
const pendingDir = "pending"

// Folder is a folder of trust metadata, as it was when it was opened. It is not safe for concurrent use.
type Folder struct {
	dir       string
	roots     map[int64]*document  // published
	published map[string]*document // targets and channels, by file name
	pending   map[string]*document // by file name
	export    trust.Files          // timestamp and snapshot, as they are
}

// document is a root, the targets or a channel's metadata.
type document struct {
	file       string
	role       string
	version    int64
	expires    time.Time
	signed     []byte // canonical JSON, which the signatures cover
	signatures []metadata.Signature
	root       *metadata.RootType    // or
	targets    *metadata.TargetsType // of the targets, or of a channel
}

// Open reads a folder. A folder that does not exist is an error for which errors.Is(err, fs.ErrNotExist) holds.
func Open(dir string) (*Folder, error) {
	f := &Folder{
		dir: dir, roots: make(map[int64]*document), published: make(map[string]*document),
		pending: make(map[string]*document), export: make(trust.Files),
	}
	files, err := readFolder(dir)
	if err != nil {
		return nil, err
	}
	for name, data := range files {
		if name == trust.FileTimestamp || name == trust.FileSnapshot {
			f.export[name] = data
			continue
		}
		d, err := parse(name, data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
		if d.root != nil {
			f.roots[d.version] = d
		} else {
			f.published[name] = d
		}
	}
	waiting, err := readFolder(filepath.Join(dir, pendingDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for name, data := range waiting {
		if f.pending[name], err = parse(name, data); err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, pendingDir), err)
		}
	}
	return f, f.check()
}

// check refuses a folder in which versions are missing or contradict each other.
func (f *Folder) check() error {
	newest := int64(len(f.roots))
	for v := int64(1); v <= newest; v++ {
		if f.roots[v] == nil {
			return fmt.Errorf("%s: %w", f.dir, &trust.MissingError{File: trust.RootFile(v)})
		}
	}
	for name, p := range f.pending {
		last := f.published[name]
		want := int64(1)
		switch {
		case p.root != nil:
			last, want = f.roots[p.version], newest+1
		case last != nil:
			want = last.version + 1
		}
		switch {
		case last != nil && last.version == p.version && bytes.Equal(last.signed, p.signed):
			delete(f.pending, name) // a power cut came between publishing and removing it; settle removes it
		case p.version != want:
			return fmt.Errorf("%s: %w", f.dir, &ConflictError{File: filepath.Join(pendingDir, name), Version: p.version,
				Reason: fmt.Sprintf("the next version is %d", want)})
		}
	}
	if len(f.roots) == 0 && f.pending[trust.RootFile(1)] == nil {
		return fmt.Errorf("%s: %w", f.dir, &trust.MissingError{File: trust.RootFile(1)})
	}
	return nil
}

// readFolder reads the files that have a name of trust metadata, each bounded. Other files are none of ours.
func readFolder(dir string) (trust.Files, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := make(trust.Files)
	for _, e := range entries {
		limit := trust.Limit(e.Name())
		if limit == 0 {
			continue
		}
		if len(files) == trust.MaxRoots+trust.MaxChannels+3 {
			return nil, fmt.Errorf("%s: too many files", dir)
		}
		if files[e.Name()], err = readBounded(filepath.Join(dir, e.Name()), limit); err != nil {
			return nil, err
		}
	}
	return files, files.Check()
}

func readBounded(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	return data, errors.Join(err, file.Close())
}

func parse(name string, data []byte) (*document, error) {
	if _, ok := trust.RootVersion(name); ok {
		m, err := trust.ParseRoot(name, data)
		if err != nil {
			return nil, err
		}
		return rootDocument(m)
	}
	if channel, ok := trust.ChannelOf(name); ok {
		m, err := trust.ParseChannel(channel, data)
		if err != nil {
			return nil, err
		}
		return targetsDocument(name, trust.ChannelRole(channel), m)
	}
	m, err := trust.ParseTargets(data)
	if err != nil {
		return nil, err
	}
	return targetsDocument(name, trust.RoleTargets, m)
}

func rootDocument(m *metadata.Metadata[metadata.RootType]) (*document, error) {
	signed, err := trust.SignedBytes(m)
	s := &m.Signed
	return &document{file: trust.RootFile(s.Version), role: trust.RoleRoot, version: s.Version, expires: s.Expires,
		signed: signed, signatures: m.Signatures, root: s}, err
}

func targetsDocument(file, role string, m *metadata.Metadata[metadata.TargetsType]) (*document, error) {
	signed, err := trust.SignedBytes(m)
	s := &m.Signed
	return &document{file: file, role: role, version: s.Version, expires: s.Expires,
		signed: signed, signatures: m.Signatures, targets: s}, err
}

// encode writes a document so that people can read it, too; what is signed is its canonical form. What could not be read
// back is refused.
func (d *document) encode() ([]byte, error) {
	var data []byte
	var err error
	if d.root != nil {
		data, err = (&metadata.Metadata[metadata.RootType]{Signed: *d.root, Signatures: d.signatures}).ToBytes(true)
	} else {
		data, err = (&metadata.Metadata[metadata.TargetsType]{Signed: *d.targets, Signatures: d.signatures}).ToBytes(true)
	}
	if err != nil {
		return nil, err
	}
	data = append(data, '\n')
	again, err := parse(d.file, data)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again.signed, d.signed) {
		return nil, &ConflictError{File: d.file, Version: d.version, Reason: "reads differently than it was made"}
	}
	return data, nil
}

// write is one file that a step is going to write, encoded before the first one is written.
type write struct {
	path string
	data []byte
}

func (f *Folder) pendingWrite(d *document) (write, error) {
	data, err := d.encode()
	return write{filepath.Join(f.dir, pendingDir, d.file), data}, err
}

func (f *Folder) publishedWrite(d *document) (write, error) {
	data, err := d.encode()
	return write{filepath.Join(f.dir, d.file), data}, err
}

func store(writes ...write) error {
	for _, w := range writes {
		if err := durable.MkdirAll(filepath.Dir(w.path), 0o755); err != nil {
			return err
		}
		if err := durable.WriteFile(w.path, w.data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// root is the newest published one, or nil.
func (f *Folder) root() *document { return f.roots[int64(len(f.roots))] }

// nextRoot is the pending one, or nil.
func (f *Folder) nextRoot() *document { return f.pending[trust.RootFile(int64(len(f.roots))+1)] }

// last is the newest of a role's documents, pending or published; nil when there is none.
func (f *Folder) last(file string) *document {
	if d := f.pending[file]; d != nil {
		return d
	}
	return f.published[file]
}

func (f *Folder) lastRoot() *document {
	if d := f.nextRoot(); d != nil {
		return d
	}
	return f.root()
}

// publish moves what has become complete: first the root, then the targets that it names, then the channels that those
// name. It gives the files.
func (f *Folder) publish() ([]string, error) {
	var done []string
	move := func(d *document) error {
		w, err := f.publishedWrite(d)
		if err != nil {
			return err
		}
		if _, err := os.Lstat(w.path); err == nil && d.root != nil {
			return &ConflictError{File: d.file, Version: d.version, Reason: "is there already"}
		}
		if err := store(w); err != nil {
			return err
		}
		if d.root != nil {
			f.roots[d.version] = d
		} else {
			f.published[d.file] = d
		}
		delete(f.pending, d.file)
		done = append(done, d.file)
		return nil
	}
	if d := f.nextRoot(); d != nil && complete(f.needs(d)) {
		if err := move(d); err != nil {
			return done, err
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(f.pending), func(a, b string) int {
		// targets.json before the channels
		return strings.Compare(strings.TrimPrefix(a, "targets"), strings.TrimPrefix(b, "targets"))
	}) {
		d := f.pending[name]
		if d.root == nil && f.publishable(d) {
			if err := move(d); err != nil {
				return done, err
			}
		}
	}
	return done, f.sweep()
}

// sweep removes from pending/ what is published.
func (f *Folder) sweep() error {
	dir := filepath.Join(f.dir, pendingDir)
	waiting, err := readFolder(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for name := range waiting {
		if f.pending[name] == nil {
			err = errors.Join(err, os.Remove(filepath.Join(dir, name)))
		}
	}
	return errors.Join(err, durable.SyncDir(dir))
}

// Discard takes back a version that waits for signatures. Signatures that were given for it remain valid, wherever copies
// of it are: say so to those who hold them.
func (f *Folder) Discard(file string) error {
	file = filepath.Base(file)
	if f.pending[file] == nil {
		return &trust.MissingError{File: filepath.Join(pendingDir, file)}
	}
	if len(f.roots) == 0 && f.pending[file].root != nil {
		return &ConflictError{File: file, Version: 1, Reason: "without it there is no root of trust; remove the folder"}
	}
	delete(f.pending, file)
	return f.sweep()
}
