package gitmirror

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/durable"
	"github.com/plimsoll/plimsoll/internal/gitcmd"
	"github.com/plimsoll/plimsoll/relay/smarthttp"
)

// fsckPolicy makes Git's checks of received objects strict, except for flaws of form: refusing those would refuse the
// repository.
func fsckPolicy() string { return strings.Join(gitcmd.FormFlaws(), "=warn,") + "=warn" }

// Admit brings the objects that g's refs lead to into the store. Layers are applied in order; those whose refs are here
// already are not read further than their header. Nothing enters the store before all of this holds: every layer is a
// sound bundle whose objects pass fsck and lead to objects that are here; every ref of g leads to an object of the right
// type; no new object is unreachable from g's refs; the last layer names only refs that g has, with g's object ids.
//
// The store is closed at every moment: each object in it has all objects that it leads to. An object that is present is
// therefore complete, and admitting again what is present costs one look-up per ref, whatever crash came between; none and
// no process when it is known (Admitted).
//
// Errors: *DamagedError, *RefusedError, *MissingBaseError, *IncompleteError, *GitError, what Layer.Open and its reader
// say, and an error for which errors.Is(err, unix.ENOSPC) holds when the disk is full.
func (m *Mirror) Admit(ctx context.Context, name string, g bundle.Git, layers []Layer) error {
	if err := checkGit(name, g); err != nil {
		return err
	}
	if m.Admitted(name, g) {
		return nil
	}
	asOf := m.doubt()
	if err := m.admit(ctx, name, g, layers); err != nil {
		return err
	}
	m.setSound(asOf, g)
	return nil
}

func (m *Mirror) admit(ctx context.Context, name string, g bundle.Git, layers []Layer) error {
	unlock, err := m.lockImport()
	if err != nil {
		return fmt.Errorf("git %s: %w", name, err)
	}
	defer unlock()
	var incomplete *IncompleteError
	if err := m.checkRefs(ctx, m.path(storeName), name, g); !errors.As(err, &incomplete) {
		return err
	}
	q, err := m.newQuarantine(name)
	if err != nil {
		return fmt.Errorf("git %s: %w", name, err)
	}
	defer os.RemoveAll(q.root)
	for i, layer := range layers {
		if err := q.add(ctx, layer, g, i == len(layers)-1); err != nil {
			return err
		}
		m.at("indexed")
	}
	if err := m.checkRefs(ctx, q.repo, name, g); err != nil {
		return err
	}
	if err := q.checkReachable(ctx, g); err != nil {
		return err
	}
	m.at("checked")
	if err := q.link(); err != nil {
		return fmt.Errorf("git %s: %w", name, err)
	}
	return nil
}

// checkGit refuses what could be written into a repository's files with another meaning. The lock's parser has checked
// the same; this package does not rest on it.
func checkGit(name string, g bundle.Git) error {
	refuse := func(format string, args ...any) error {
		return &RefusedError{Repository: name, Reason: fmt.Sprintf(format, args...)}
	}
	if err := bundle.CheckGitRef(g.Head); err != nil {
		return refuse("HEAD: %v", err)
	}
	if len(g.Refs) == 0 || len(g.Refs) > bundle.MaxGitRefs {
		return refuse("%d refs, want 1 to %d", len(g.Refs), bundle.MaxGitRefs)
	}
	for i, ref := range g.Refs {
		if err := bundle.CheckGitRef(ref.Name); err != nil {
			return refuse("%v", err)
		}
		if i > 0 && g.Refs[i-1].Name >= ref.Name {
			return refuse("refs are not sorted at %s", ref.Name)
		}
		if !sha1Pattern.MatchString(ref.OID) || ref.Peeled != "" && !sha1Pattern.MatchString(ref.Peeled) {
			return refuse("%s: %.100q is not a SHA-1 object id", ref.Name, ref.OID+ref.Peeled)
		}
	}
	return nil
}

// checkRefs looks each ref of g up in the repository dir: *IncompleteError if its object is not there, *RefusedError if
// it has the wrong type or peels to something else.
func (m *Mirror) checkRefs(ctx context.Context, dir, name string, g bundle.Git) error {
	asked := make([]string, 0, 2*len(g.Refs))
	for _, ref := range g.Refs {
		asked = append(asked, ref.OID, ref.OID+"^{}")
	}
	types := make([]object, 0, len(asked))
	if err := m.lookUp(ctx, dir, asked, func(_ string, o object) error {
		types = append(types, o)
		return nil
	}); err != nil {
		return err
	}
	for i, ref := range g.Refs {
		self, peeled := types[2*i], types[2*i+1]
		switch {
		case self.kind == "":
			return &IncompleteError{Repository: name, Ref: ref.Name, OID: ref.OID}
		case strings.HasPrefix(ref.Name, "refs/heads/") && self.kind != "commit":
			return &RefusedError{Repository: name, Reason: fmt.Sprintf("branch %s is a %s", ref.Name, self.kind)}
		case self.kind != "tag" && ref.Peeled != "":
			return &RefusedError{Repository: name, Reason: fmt.Sprintf("%s is a %s, which does not peel", ref.Name, self.kind)}
		case self.kind == "tag" && peeled.oid == "":
			return &IncompleteError{Repository: name, Ref: ref.Name + "^{}", OID: ref.Peeled}
		case self.kind == "tag" && peeled.oid != ref.Peeled:
			return &RefusedError{Repository: name, Reason: fmt.Sprintf("%s peels to %s, the lock says %q", ref.Name, peeled.oid, ref.Peeled)}
		}
	}
	return nil
}

// object is the answer to a look-up; both fields are empty when there is none.
type object struct{ oid, kind string }

// lookUp asks the repository dir for objects and hands each answer to fn, in order.
func (m *Mirror) lookUp(ctx context.Context, dir string, asked []string, fn func(asked string, o object) error) error {
	if len(asked) == 0 {
		return nil
	}
	i := 0
	err := m.git.Lines(ctx, dir, strings.NewReader(strings.Join(asked, "\n")+"\n"), func(line string) error {
		if i == len(asked) {
			return errors.New("git cat-file: too many answers")
		}
		var o object
		if oid, kind, ok := strings.Cut(line, " "); ok && kind != "missing" && sha1Pattern.MatchString(oid) {
			o = object{oid: oid, kind: kind}
		}
		i++
		return fn(asked[i-1], o)
	}, "cat-file", "--batch-check=%(objectname) %(objecttype)", "--buffer")
	if err == nil && i != len(asked) {
		err = fmt.Errorf("git cat-file: %d answers to %d questions", i, len(asked))
	}
	return err
}

// quarantine is a repository that sees the store's objects while the store does not see its.
type quarantine struct {
	m          *Mirror
	root, repo string
	name       string   // of the repository, for errors
	packs      []string // hashes of the packs made, in the order of layers
	bases      []string // prerequisites that the store has
}

func (m *Mirror) newQuarantine(name string) (*quarantine, error) {
	root, err := os.MkdirTemp(m.path(quarantineName), "admit-")
	if err != nil {
		return nil, err
	}
	q := &quarantine{m: m, root: root, repo: filepath.Join(root, "q.git"), name: name}
	files := storeFiles()
	files["objects/info/alternates"] = filepath.Join("..", "..", "..", "..", storeName, "objects") + "\n"
	if err := writeRepository(q.repo, files, storeFolders()); err != nil {
		return nil, errors.Join(err, os.RemoveAll(root))
	}
	return q, nil
}

// add checks one layer and turns it into a pack of the quarantine.
func (q *quarantine) add(ctx context.Context, layer Layer, g bundle.Git, last bool) (err error) {
	src, err := layer.Open()
	if err != nil {
		return fmt.Errorf("git %s: layer %s: %w", q.name, layer.Name, err)
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	br := bundle.NewGitHeaderReader(&contextReader{ctx: ctx, r: src})
	h, err := bundle.ReadGitHeader(br)
	var bad *bundle.GitHeaderError
	if errors.As(err, &bad) {
		return q.damaged(layer, err)
	}
	if err != nil {
		return fmt.Errorf("git %s: layer %s: %w", q.name, layer.Name, err)
	}
	if last {
		if err := q.checkHeaderRefs(layer, h, g); err != nil {
			return err
		}
	}
	if err := q.checkPrerequisites(ctx, layer, h); err != nil {
		return err
	}
	missing, err := q.missing(ctx, q.repo, headerOIDs(h))
	if err != nil || len(missing) == 0 { // what this layer brings is here, and complete
		return err
	}
	pack, size, err := q.spool(layer, br)
	if err != nil {
		return err
	}
	err = q.index(ctx, layer, pack, size)
	if err := errors.Join(err, pack.Close(), os.Remove(pack.Name())); err != nil {
		return err
	}
	if missing, err = q.missing(ctx, q.repo, headerOIDs(h)); err != nil {
		return err
	}
	if len(missing) > 0 {
		return &DamagedError{Repository: q.name, Layer: layer.Name,
			Reason: "its header names object " + missing[0] + ", which its pack does not bring"}
	}
	return nil
}

func (q *quarantine) damaged(layer Layer, err error) error {
	return &DamagedError{Repository: q.name, Layer: layer.Name, Reason: err.Error(), Err: err}
}

func headerOIDs(h *bundle.GitHeader) []string {
	oids := make([]string, len(h.Refs))
	for i, ref := range h.Refs {
		oids[i] = ref.OID
	}
	return oids
}

// checkHeaderRefs holds the last layer, which is the newest state, against the lock.
func (q *quarantine) checkHeaderRefs(layer Layer, h *bundle.GitHeader, g bundle.Git) error {
	want := make(map[string]string, len(g.Refs))
	for _, ref := range g.Refs {
		want[ref.Name] = ref.OID
	}
	for _, ref := range h.Refs {
		name := ref.Name
		if name == "HEAD" {
			name = g.Head
		}
		oid, ok := want[name]
		if !ok {
			return &RefusedError{Repository: q.name, Reason: fmt.Sprintf("layer %s brings %s, which the lock does not name", layer.Name, ref.Name)}
		}
		if oid != ref.OID {
			return &RefusedError{Repository: q.name, Reason: fmt.Sprintf("layer %s brings %s at %s, the lock says %s", layer.Name, ref.Name, ref.OID, oid)}
		}
	}
	return nil
}

func (q *quarantine) checkPrerequisites(ctx context.Context, layer Layer, h *bundle.GitHeader) error {
	var missing []string
	err := q.m.lookUp(ctx, q.repo, h.Prerequisites, func(oid string, o object) error {
		switch o.kind {
		case "commit":
		case "":
			missing = append(missing, oid)
		default:
			return &DamagedError{Repository: q.name, Layer: layer.Name, Reason: "header: prerequisite " + oid + " is a " + o.kind}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return &MissingBaseError{Repository: q.name, Layer: layer.Name, OIDs: missing}
	}
	return q.m.lookUp(ctx, q.m.path(storeName), h.Prerequisites, func(oid string, o object) error {
		if o.kind != "" {
			q.bases = append(q.bases, oid)
		}
		return nil
	})
}

// missing lists those of oids that the repository dir does not have.
func (q *quarantine) missing(ctx context.Context, dir string, oids []string) ([]string, error) {
	var missing []string
	err := q.m.lookUp(ctx, dir, oids, func(oid string, o object) error {
		if o.kind == "" {
			missing = append(missing, oid)
		}
		return nil
	})
	return missing, err
}

// spool writes the layer's pack into a file: index-pack sees junk behind a pack only in a file.
func (q *quarantine) spool(layer Layer, br *bufio.Reader) (*os.File, int64, error) {
	pack, err := os.CreateTemp(q.root, "layer-")
	if err != nil {
		return nil, 0, fmt.Errorf("git %s: %w", q.name, err)
	}
	size, err := q.fill(pack, layer, br)
	if err != nil {
		return nil, 0, errors.Join(err, pack.Close(), os.Remove(pack.Name()))
	}
	return pack, size, nil
}

func (q *quarantine) fill(pack *os.File, layer Layer, br *bufio.Reader) (int64, error) {
	head, err := br.Peek(packHeaderSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("git %s: layer %s: %w", q.name, layer.Name, err)
	}
	head = bytes.Clone(head) // the copy takes br's buffer
	size, err := io.Copy(pack, br)
	if err != nil {
		return 0, fmt.Errorf("git %s: layer %s: %w", q.name, layer.Name, err)
	}
	if err := checkPackHeader(head, size); err != nil {
		return 0, q.damaged(layer, err)
	}
	if _, err := pack.Seek(0, io.SeekStart); err != nil {
		return 0, fmt.Errorf("git %s: %w", q.name, err)
	}
	return size, nil
}

// index lets git check the pack: checksums, every object by fsck, and that every object which one of them leads to is
// here. The last makes each layer closed over what came before it, so that a crash between two links leaves no hole.
func (q *quarantine) index(ctx context.Context, layer Layer, pack *os.File, size int64) error {
	var hash string
	err := q.m.git.Lines(ctx, q.repo, pack, func(line string) error {
		_, hash, _ = strings.Cut(line, "\t")
		return nil
	}, "index-pack", "--stdin", "--fix-thin", "--strict="+fsckPolicy(), fmt.Sprintf("--max-input-size=%d", size+1))
	if refused, ok := smarthttp.RefusedInput(err); ok {
		var fs unix.Statfs_t
		if e := unix.Statfs(q.root, &fs); e == nil && int64(fs.Bavail)*int64(fs.Bsize) < size {
			return fmt.Errorf("git %s: layer %s: %w", q.name, layer.Name, unix.ENOSPC)
		}
		return &DamagedError{Repository: q.name, Layer: layer.Name, Reason: refused.Stderr, Err: refused}
	}
	if err != nil {
		return fmt.Errorf("git %s: layer %s: %w", q.name, layer.Name, err)
	}
	if !sha1Pattern.MatchString(hash) {
		return fmt.Errorf("git %s: layer %s: git index-pack named no pack", q.name, layer.Name)
	}
	q.packs = append(q.packs, hash)
	return nil
}

// link moves the packs into the store in the order of layers. Git sees a pack when its index is there, so the pack is
// made durable first.
func (q *quarantine) link() error {
	if err := q.m.dropBitmap(); err != nil {
		return err
	}
	for _, hash := range q.packs {
		for _, ext := range []string{".pack", ".idx"} {
			file := "pack-" + hash + ext
			from := filepath.Join(q.repo, "objects", "pack", file)
			if err := syncFile(from); err != nil {
				return err
			}
			if err := os.Rename(from, filepath.Join(q.m.packDir(), file)); err != nil {
				return err
			}
			if err := durable.SyncDir(q.m.packDir()); err != nil {
				return err
			}
			q.m.at("linked" + ext)
		}
	}
	return nil
}

// contextReader ends a copy when ctx does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
