package gitpack

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/plimsoll/plimsoll/bundle"
)

// Limits of what one ref's checkout may be. A few hundred small trees can stand for billions of files.
const (
	MaxTreeFiles = 4 << 20 // files and symbolic links
	MaxTreePath  = 4096    // bytes of a path, Linux's PATH_MAX
	MaxTree      = 8 << 20 // bytes of one tree object, some hundred thousand names in one folder
)

// checkContents refuses what the repository only points to and a site could not get: submodules and files in Git LFS; and
// what no machine could check out. It looks at the tree of each ref, and at each subtree once however many refs share it.
func (p *packer) checkContents(ctx context.Context, refs []bundle.GitRef) error {
	objects, err := p.openObjects(ctx)
	if err != nil {
		return fmt.Errorf("git %s: %w", p.o.Source, err)
	}
	w := &treeWalk{
		source: p.o.Source, objects: objects,
		trees: make(map[objectID]extent), attributes: make(map[objectID]bool), met: make(map[string]bool),
	}
	for _, ref := range refs {
		if err = w.walk(ref); err != nil {
			break
		}
	}
	err = objects.close(ctx, err)
	var te *TreeError
	switch {
	case errors.As(err, &te):
		return te
	case err != nil:
		return fmt.Errorf("git %s: %w", p.o.Source, err)
	case len(w.submodules) > 0:
		return &SubmoduleError{Source: p.o.Source, Places: w.submodules}
	case len(w.lfs) > 0:
		return &LFSError{Source: p.o.Source, Places: w.lfs}
	}
	return nil
}

type treeWalk struct {
	source     string
	objects    *objectReader
	trees      map[objectID]extent // of those walked
	attributes map[objectID]bool   // the .gitattributes that were read
	met        map[string]bool     // submodules by path
	submodules []Place
	lfs        []Place
}

// extent is what a tree is when checked out.
type extent struct {
	files   int // at most MaxTreeFiles
	longest int // bytes of the longest path in it
}

// Modes of tree entries.
const (
	modeTree    = "40000"
	modeTreeOld = "040000" // as some old tools wrote it
	modeGitlink = "160000"
)

// folder is a tree whose subtrees are being walked.
type folder struct {
	path     string // with a slash at the end, or empty
	id       objectID
	self     extent
	subtrees []subtree
	next     int // of subtrees, to be walked
}

// subtree stands for all entries of a folder that are the same tree.
type subtree struct {
	id    objectID
	name  string // the longest
	times int
}

func (w *treeWalk) walk(ref bundle.GitRef) error {
	tip := ref.OID
	if ref.Peeled != "" {
		tip = ref.Peeled
	}
	top, err := w.open(ref, "", tip+"^{tree}")
	if errors.Is(err, errNoObject) { // a tag of a file
		return nil
	}
	if err != nil {
		return err
	}
	if _, done := w.trees[top.id]; done {
		return nil
	}
	for stack := []*folder{top}; len(stack) > 0; {
		at := stack[len(stack)-1]
		if at.next == len(at.subtrees) {
			if err := w.sum(ref, at); err != nil {
				return err
			}
			stack = stack[:len(stack)-1]
			continue
		}
		sub := at.subtrees[at.next]
		at.next++
		if _, done := w.trees[sub.id]; done {
			continue
		}
		inner, err := w.open(ref, at.path+sub.name+"/", sub.id.String())
		if err != nil {
			return err
		}
		stack = append(stack, inner)
	}
	return nil
}

// open reads a folder and looks at its entries, except what is in its subfolders.
func (w *treeWalk) open(ref bundle.GitRef, path, object string) (*folder, error) {
	if len(path) > MaxTreePath {
		return nil, w.refuse(ref, path, object, fmt.Sprintf("a path is longer than %d bytes", MaxTreePath))
	}
	id, entries, err := w.objects.tree(object)
	var big *sizeError
	if errors.As(err, &big) {
		return nil, w.refuse(ref, path, object, fmt.Sprintf("it has %d bytes, the limit is %d", big.size, MaxTree))
	}
	if err != nil {
		return nil, err
	}
	f := &folder{path: path, id: id}
	index := make(map[objectID]int) // into f.subtrees
	for _, e := range entries {
		switch {
		case e.mode == modeTree || e.mode == modeTreeOld:
			i, met := index[e.id]
			if !met {
				i = len(f.subtrees)
				index[e.id] = i
				f.subtrees = append(f.subtrees, subtree{id: e.id})
			}
			sub := &f.subtrees[i]
			sub.times++
			if len(e.name) > len(sub.name) {
				sub.name = strings.Clone(e.name) // or it would keep all names of the folder
			}
			continue
		case e.mode == modeGitlink:
			if name := path + e.name; !w.met[name] && len(w.submodules) < MaxPlaces {
				w.met[name] = true
				w.submodules = append(w.submodules, Place{Ref: ref.Name, Path: name})
			}
		case e.name == ".gitattributes" && !w.attributes[e.id]:
			w.attributes[e.id] = true
			lfs, err := w.objects.setsLFS(e.id.String())
			if err != nil {
				return nil, err
			}
			if lfs && len(w.lfs) < MaxPlaces {
				w.lfs = append(w.lfs, Place{Ref: ref.Name, Path: path + e.name})
			}
		}
		f.self.files++
		f.self.longest = max(f.self.longest, len(e.name))
	}
	return f, nil
}

// sum closes a folder whose subtrees are known.
func (w *treeWalk) sum(ref bundle.GitRef, f *folder) error {
	for _, sub := range f.subtrees {
		in := w.trees[sub.id]
		f.self.files += sub.times * in.files // a tree object's entries times what a tree may have: no overflow
		f.self.longest = max(f.self.longest, len(sub.name)+1+in.longest)
		if f.self.files > MaxTreeFiles {
			return w.refuse(ref, f.path, f.id.String(), fmt.Sprintf("more than %d files when checked out", MaxTreeFiles))
		}
	}
	if len(f.path)+f.self.longest > MaxTreePath {
		return w.refuse(ref, f.path, f.id.String(), fmt.Sprintf("a path is longer than %d bytes", MaxTreePath))
	}
	w.trees[f.id] = f.self
	return nil
}

func (w *treeWalk) refuse(ref bundle.GitRef, path, object, reason string) error {
	return &TreeError{Source: w.source, Ref: ref.Name, Path: path, Object: object, Reason: reason}
}
