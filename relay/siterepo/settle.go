package siterepo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/plimsoll/plimsoll/internal/durable"
)

// CatchUp waits until nobody is pushing, removes what killed pushes left, and completes the history of every repository,
// as Open and each push do. The error is ctx's or that of the disk; a Pushed that fails is a Problem.
func (s *Set) CatchUp(ctx context.Context) error {
	for _, name := range s.opts.Names {
		r := s.repositories[name]
		leave, err := r.queue.Enter(ctx, "")
		if err != nil {
			return err
		}
		err = s.settle(ctx, r, waitLock)
		leave()
		if err != nil {
			return fmt.Errorf("site repository %s: %w", name, err)
		}
	}
	return nil
}

// settle takes the lock for as long as it takes to complete the history.
func (s *Set) settle(ctx context.Context, r *repository, lock locker) error {
	held, err := lock(ctx, r.lock())
	if err != nil {
		return err
	}
	defer held.Close()
	return s.recover(ctx, r)
}

// recover, under the lock, makes a repository whole about whose last push nothing is known, and tells what was not told.
func (s *Set) recover(ctx context.Context, r *repository) error {
	if r.suspect {
		if err := sweep(r.git()); err != nil {
			return err
		}
		if err := checkAlternates(r); err != nil {
			return err
		}
	}
	found, err := s.changed(ctx, r)
	if err != nil {
		return err
	}
	_, err = s.record(r, "", nil, found)
	return err
}

// changed, under the lock, lists what is not in the history yet, and makes it durable.
func (s *Set) changed(ctx context.Context, r *repository) ([]command, error) {
	r.suspect = true // until the history is complete
	if err := r.history.load(r.dir); err != nil {
		return nil, err
	}
	if n := r.history.takeBad(); n > 0 {
		s.opts.Problem(r.name, fmt.Errorf("%d lines of %s cannot be read and are left out", n, historyFile))
	}
	refs, err := s.refs(ctx, r)
	if err != nil {
		return nil, err
	}
	found := changes(r.history.refs, refs)
	if len(found) == 0 {
		return nil, nil
	}
	if err := s.syncPush(ctx, r, found); err != nil {
		return nil, fmt.Errorf("sync: %w", err)
	}
	return found, nil
}

// record, under the lock, adds to the history what was found. Who changed the refs of commands is known; of others, which
// a crash kept out of the history, the reflog says it.
func (s *Set) record(r *repository, who string, commands, found []command) ([]Push, error) {
	mine := make(map[string]bool, len(commands))
	for _, c := range commands {
		mine[c.ref] = true
	}
	now := time.Now()
	var pushes []Push
	for _, c := range found {
		p := Push{Time: now, Repository: r.name, Who: who, Ref: c.ref, Old: c.old, New: c.new}
		if mine[c.ref] {
			pushes = append(pushes, p)
			continue
		}
		p.Who = ""
		pushes = append(pushes, fromReflog(r.git(), p)...)
	}
	pushes, err := r.history.add(r.dir, pushes)
	if err != nil {
		return nil, err
	}
	r.suspect = false
	s.at("recorded")
	s.tell(r)
	return pushes, nil
}

// tell hands to Pushed what it was not told yet.
func (s *Set) tell(r *repository) {
	if s.opts.Pushed == nil {
		return
	}
	for _, p := range r.history.pending {
		p.Repository = r.name
		if err := s.opts.Pushed(p); err != nil {
			s.opts.Problem(r.name, fmt.Errorf("push %d was not taken note of: %w", p.Seq, err))
			break
		}
		s.at("told")
		if err := r.history.told(r.dir, p.Seq); err != nil {
			s.opts.Problem(r.name, fmt.Errorf("%s: %w", reportedFile, err))
			break
		}
	}
}

// refs lists the branches and tags.
func (s *Set) refs(ctx context.Context, r *repository) (map[string]string, error) {
	refs := make(map[string]string)
	err := s.tool.Lines(ctx, r.git(), strings.NewReader(""), func(line string) error {
		oid, ref, ok := strings.Cut(line, " ")
		if !ok {
			return fmt.Errorf("git for-each-ref: %.200q is no ref", line)
		}
		refs[ref] = oid
		return nil
	}, "for-each-ref", "--format=%(objectname) %(refname)", "refs/heads/", "refs/tags/")
	return refs, err
}

// sweep removes what a killed git left: locks, which would refuse every later push, and unfinished objects. The caller
// holds the repository's lock, so none of it is in use.
func sweep(repo string) error {
	var found []string
	for _, pattern := range []string{
		"*.lock", "shallow_*", "objects/tmp_*", "objects/incoming-*", "objects/pack/tmp_*", "objects/pack/*.keep", "objects/??/tmp_*",
	} {
		names, err := filepath.Glob(filepath.Join(escapeGlob(repo), filepath.FromSlash(pattern)))
		if err != nil {
			return err
		}
		found = append(found, names...)
	}
	err := filepath.WalkDir(filepath.Join(repo, "refs"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(p, ".lock") { // no ref is called so
			found = append(found, p)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, p := range found {
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}
	return nil
}

var globMeta = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)

func escapeGlob(path string) string { return globMeta.Replace(path) }

// syncTree makes a folder with all that is in it durable.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return durable.SyncDir(p) // which does for files what it does for folders
	})
}

// enoughFolders is after how many new objects all folders are synced: there are 256.
const enoughFolders = 512

var errEnough = errors.New("enough")

// syncPush makes what a push changed durable: git syncs the files that it writes, but neither their names nor reflogs. It
// is done before the client is told. A power cut before it leaves the ref as it was, or with all its objects: file systems
// with a journal keep the order in which names were made, and git itself rests on that.
func (s *Set) syncPush(ctx context.Context, r *repository, commands []command) error {
	paths, err := s.touched(ctx, r, commands)
	if err != nil {
		return err
	}
	for p := range paths {
		if err := durable.SyncDir(p); err != nil && !errors.Is(err, fs.ErrNotExist) { // a ref that was deleted
			return err
		}
	}
	return nil
}

// touched gives the files and folders that a push may have changed, except for the objects themselves.
func (s *Set) touched(ctx context.Context, r *repository, commands []command) (map[string]bool, error) {
	objects := filepath.Join(r.git(), "objects")
	paths := map[string]bool{
		r.git(): true, objects: true, filepath.Join(objects, "pack"): true, filepath.Join(r.git(), "logs", "HEAD"): true,
	}
	if err := s.objectFolders(ctx, r, commands, objects, paths); err != nil {
		return nil, err
	}
	for _, c := range commands {
		for _, top := range []string{"", "logs"} {
			for p := filepath.Join(r.git(), top, filepath.FromSlash(c.ref)); len(p) > len(r.git()); p = filepath.Dir(p) {
				paths[p] = true
			}
		}
	}
	return paths, nil
}

// objectFolders adds the folders of the objects that a push brought.
func (s *Set) objectFolders(ctx context.Context, r *repository, commands []command, objects string, paths map[string]bool) error {
	var revs strings.Builder
	for _, c := range commands {
		if c.new != "" {
			revs.WriteString(c.new + "\n")
		}
	}
	if revs.Len() == 0 {
		return nil
	}
	for _, oid := range r.history.refs { // as they were before
		revs.WriteString("^" + oid + "\n")
	}
	n := 0
	err := s.tool.Lines(ctx, r.git(), strings.NewReader(revs.String()), func(line string) error {
		if n++; n > enoughFolders {
			return errEnough
		}
		if len(line) > 2 {
			paths[filepath.Join(objects, line[:2])] = true
		}
		return nil
	}, "rev-list", "--objects", "--no-object-names", "--stdin")
	if !errors.Is(err, errEnough) {
		return err
	}
	for i := range 256 {
		paths[filepath.Join(objects, fmt.Sprintf("%02x", i))] = true
	}
	return nil
}
