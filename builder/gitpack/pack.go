// Package gitpack packs the branches and tags of a Git repository into one Git bundle file, the layer by which a bundle
// carries it.
//
// The file depends on the refs, their objects, the refs of the base if there is one, and the version of git (with its
// zlib), and on nothing else: not on how the source packed its objects, on the folder, the clock or the user's
// configuration.
package gitpack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/progress"
)

// Options of Pack; only Source is required.
type Options struct {
	Source   string        // a URL (https, http, ssh, git, file), host:path, or a folder
	Refs     []string      // patterns of branches and tags, see Match; none: all branches and tags
	Head     string        // the branch that HEAD names, short or full; empty: the source's
	Base     *Base         // what an earlier release carries; nil: the file holds everything
	Dir      string        // where the scratch folder is made; empty: the system's folder for temporary files
	Git      string        // the git executable; empty: "git" from PATH
	Progress progress.Func //
	// Pinned are the refs of a lock: exactly these objects are packed under these names, wherever the source's refs are by
	// now, and Refs is not looked at. Head is then the lock's too.
	Pinned []bundle.GitRef
	// Env is the environment of the processes that talk to the source, where the user's insteadOf rules, credential
	// helpers and SSH keys must work; nil is that of this process, as in exec.Cmd. Of the variables named GIT_… only
	// those about transport and configuration files get through. All other git processes see none of it.
	Env []string

	maxAllocation int64 // for tests; zero: MaxAllocation
}

// Packed is the result of Pack. Its paths are in the scratch folder. It is one of three: Full, Unchanged, or neither:
// then the file holds what the base lacks.
type Packed struct {
	Git       bundle.Git      // the refs, all of them
	File      string          // path of the Git bundle, format v2; empty if Unchanged
	Repo      string          // path of a bare repository with exactly these refs and HEAD
	Newest    time.Time       // the newest committer time among the refs, UTC; zero if no ref leads to a commit
	Full      bool            // the file needs no earlier layer: a new chain starts with it
	Unchanged bool            // the base's last layer says and holds everything already
	Lost      []bundle.GitRef // refs of the base that the present refs do not lead to, the reason why a file with a base is Full

	scratch string
}

// Close removes the scratch folder with the file and the repository.
func (p *Packed) Close() error { return os.RemoveAll(p.scratch) }

// Pack fetches the chosen refs with their whole history, checks every object, and packs them. The caller closes the result.
//
// Errors: *SourceError, *NoRefsError, *HeadError, *GoneError, *ShallowError, *SubmoduleError, *LFSError, *ObjectError,
// *TreeError, *MemoryError, *NoSpaceError, *GitError, and ctx's.
func Pack(ctx context.Context, o Options) (_ *Packed, err error) {
	p, err := begin(o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(p.scratch))
		}
	}()
	packed, err := p.pack(ctx)
	if err != nil {
		return nil, p.explain(err)
	}
	return packed, nil
}

// List gives the refs that Pack would pack now, without their objects. Where annotated tags lead to is left out.
func List(ctx context.Context, o Options) (_ bundle.Git, err error) {
	p, err := begin(o)
	if err != nil {
		return bundle.Git{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(p.scratch)) }()
	if err := p.initRepository(); err != nil {
		return bundle.Git{}, fmt.Errorf("git %s: %w", o.Source, err)
	}
	there, err := p.listRefs(ctx)
	if err != nil {
		return bundle.Git{}, p.explain(err)
	}
	chosen, err := p.choose(there)
	if err != nil {
		return bundle.Git{}, err
	}
	g := bundle.Git{}
	if g.Head, err = p.chooseHead(there, chosen); err != nil {
		return bundle.Git{}, err
	}
	slices.Sort(chosen)
	for _, name := range chosen {
		g.Refs = append(g.Refs, bundle.GitRef{Name: name, OID: there.oids[name]})
	}
	return g, nil
}

// begin makes the scratch folder, which the caller removes.
func begin(o Options) (*packer, error) {
	source, err := checkSource(o.Source)
	if err != nil {
		return nil, err
	}
	if err := o.Base.check(); err != nil {
		return nil, fmt.Errorf("git %s: %w", o.Source, err)
	}
	scratch, err := os.MkdirTemp(o.Dir, "gitpack-")
	if err != nil {
		return nil, fmt.Errorf("git %s: %w", o.Source, err)
	}
	abs, err := filepath.Abs(scratch)
	if err == nil {
		p := &packer{o: o, source: source, scratch: abs, repo: filepath.Join(abs, "clone.git")}
		if p.git, err = newGitTool(o, abs); err == nil {
			return p, nil
		}
	}
	return nil, fmt.Errorf("git %s: %w", o.Source, errors.Join(err, os.RemoveAll(scratch)))
}

type packer struct {
	o       Options
	git     gitTool
	source  string // as git is given it
	scratch string
	repo    string
}

func (p *packer) pack(ctx context.Context) (*Packed, error) {
	if err := p.initRepository(); err != nil {
		return nil, fmt.Errorf("git %s: %w", p.o.Source, err)
	}
	version, err := p.git.version(ctx)
	if err != nil {
		return nil, err
	}
	head, refs, err := p.take(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.checkContents(ctx, refs); err != nil {
		return nil, err
	}
	packed := &Packed{Git: bundle.Git{Head: head, Refs: refs, Version: version}, Repo: p.repo, scratch: p.scratch}
	if packed.Newest, err = p.newest(ctx, refs); err != nil {
		return nil, err
	}
	if packed.Unchanged = p.o.Base.says(packed.Git); packed.Unchanged {
		return packed, nil
	}
	from, lost, err := p.against(ctx, refs)
	if err != nil {
		return nil, err
	}
	packed.Lost, packed.Full = lost, len(from.oids) == 0
	packed.File = filepath.Join(p.scratch, "layer.bundle")
	if err := p.writeBundle(ctx, packed.File, packed.Git, from); err != nil {
		return nil, err
	}
	return packed, nil
}

// take brings the wanted refs into the repository.
func (p *packer) take(ctx context.Context) (head string, refs []bundle.GitRef, err error) {
	p.report(progress.Event{Note: "reading refs"})
	there, err := p.listRefs(ctx)
	if err != nil {
		return "", nil, err
	}
	chosen, err := p.choose(there)
	if err != nil {
		return "", nil, err
	}
	if head, err = p.chooseHead(there, chosen); err != nil {
		return "", nil, err
	}
	p.report(progress.Event{Note: fmt.Sprintf("fetching %d refs", len(chosen))})
	if len(p.o.Pinned) > 0 {
		err = p.fetchPinned(ctx, there)
	} else {
		err = p.fetch(ctx, chosen)
	}
	if err != nil {
		return "", nil, err
	}
	if err := os.WriteFile(filepath.Join(p.repo, "HEAD"), []byte("ref: "+head+"\n"), 0o644); err != nil {
		return "", nil, fmt.Errorf("git %s: %w", p.o.Source, err)
	}
	if refs, err = p.readRefs(ctx); err != nil {
		return "", nil, err
	}
	return head, refs, p.checkPinned(refs)
}

func (p *packer) report(e progress.Event) {
	e.Stage, e.Name = "git", p.o.Source
	p.o.Progress.Report(e)
}

// initRepository makes an empty bare repository without the templates, hooks and defaults that `git init` takes from the
// machine.
func (p *packer) initRepository() error {
	for _, sub := range []string{"objects", "refs"} {
		if err := os.MkdirAll(filepath.Join(p.repo, sub), 0o700); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(p.repo, "HEAD"), []byte("ref: refs/heads/main\n"), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(p.repo, "config"), []byte("[core]\n\trepositoryformatversion = 0\n\tbare = true\n"), 0o644)
}

// readRefs reads what was fetched: a ref of the source may have moved since it was listed.
func (p *packer) readRefs(ctx context.Context) ([]bundle.GitRef, error) {
	var refs []bundle.GitRef
	err := p.git.lines(ctx, p.repo, nil, func(line string) error {
		oid, name, ok := strings.Cut(line, " ")
		if !ok {
			return fmt.Errorf("git show-ref: line %q", line)
		}
		if tag, ok := strings.CutSuffix(name, "^{}"); ok {
			if len(refs) == 0 || refs[len(refs)-1].Name != tag {
				return fmt.Errorf("git show-ref: line %q out of place", line)
			}
			refs[len(refs)-1].Peeled = oid
			return nil
		}
		refs = append(refs, bundle.GitRef{Name: name, OID: oid})
		return nil
	}, "show-ref", "--dereference")
	if err != nil {
		return nil, fmt.Errorf("git %s: %w", p.o.Source, err)
	}
	for i := 1; i < len(refs); i++ {
		if refs[i-1].Name >= refs[i].Name {
			return nil, fmt.Errorf("git %s: git show-ref: not sorted at %s", p.o.Source, refs[i].Name)
		}
	}
	return refs, nil
}

func (p *packer) newest(ctx context.Context, refs []bundle.GitRef) (time.Time, error) {
	var newest int64
	err := p.git.lines(ctx, p.repo, strings.NewReader(objectLines(refs)), func(line string) error {
		var at int64
		if _, err := fmt.Sscanf(line, "%d ", &at); err != nil {
			return fmt.Errorf("git rev-list: line %q: %w", line, err)
		}
		newest = max(newest, at)
		return nil
	}, "rev-list", "--no-walk", "--timestamp", "--stdin")
	if err != nil {
		return time.Time{}, fmt.Errorf("git %s: %w", p.o.Source, err)
	}
	if newest == 0 {
		return time.Time{}, nil
	}
	return time.Unix(newest, 0).UTC(), nil
}

// objectLines lists the refs' objects in the order of the refs' names, which decides the order in the pack.
func objectLines(refs []bundle.GitRef) string {
	var b strings.Builder
	for _, ref := range refs {
		b.WriteString(ref.OID + "\n")
	}
	return b.String()
}
