package gitpack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/plimsoll/plimsoll/bundle"
)

// Base is what an earlier release carries of a repository. Its layers stay as they are; only what they lack is packed.
type Base struct {
	// Refs are those of the last layer's header, HEAD among them, as Header gives them. Each layer that Pack writes lists
	// all refs, so these are the complete state, and the layers hold no object that they do not lead to.
	Refs []bundle.GitRef
}

// Header reads what stands before the pack in a Git bundle file, v2 or v3: its refs, HEAD among them, and the commits
// that its receiver must have.
func Header(r io.Reader) (refs []bundle.GitRef, prerequisites []string, err error) {
	h, err := bundle.ReadGitHeader(bundle.NewGitHeaderReader(r))
	if err != nil {
		return nil, nil, err
	}
	return h.Refs, h.Prerequisites, nil
}

func (b *Base) check() error {
	if b == nil {
		return nil
	}
	if len(b.Refs) > bundle.MaxGitHeaderRefs {
		return fmt.Errorf("base: %d refs, the limit is %d", len(b.Refs), bundle.MaxGitHeaderRefs)
	}
	for _, ref := range b.Refs {
		if ref.Name != "HEAD" && bundle.CheckGitRef(ref.Name) != nil || !sha1Pattern.MatchString(ref.OID) {
			return fmt.Errorf("base: ref %.100q at %.100q", ref.Name, ref.OID)
		}
	}
	return nil
}

// says reports whether the header of the base's last layer is the one that a new layer would have.
func (b *Base) says(g bundle.Git) bool {
	return b != nil && maps.Equal(byName(b.Refs), byName(headerRefs(g)))
}

func byName(refs []bundle.GitRef) map[string]string {
	m := make(map[string]string, len(refs))
	for _, ref := range refs {
		m[ref.Name] = ref.OID
	}
	return m
}

// start is where a layer starts from; the zero value is a start from nothing.
type start struct {
	oids    []string // objects that are not packed, nor what they lead to; sorted
	commits []string // those of them that are or peel to commits, peeled: the prerequisites; sorted
}

// against finds what the base spares. It spares everything or nothing: if the present refs do not lead to some object of
// the base (a branch was rewritten, or deleted unmerged), a site that starts with this release would get objects that no
// ref of the lock leads to. A relay refuses those, and somebody may have withdrawn them. So a new chain starts then.
func (p *packer) against(ctx context.Context, refs []bundle.GitRef) (from start, lost []bundle.GitRef, err error) {
	if p.o.Base == nil || len(p.o.Base.Refs) == 0 {
		return start{}, nil, nil
	}
	for _, ref := range p.o.Base.Refs {
		from.oids = append(from.oids, ref.OID)
	}
	slices.Sort(from.oids)
	from.oids = slices.Compact(from.oids)
	gone := make(map[string]bool)
	if from.commits, err = p.peelBase(ctx, from.oids, gone); err == nil {
		err = p.findUnreached(ctx, refs, from.oids, gone)
	}
	if err != nil {
		return start{}, nil, fmt.Errorf("git %s: base: %w", p.o.Source, err)
	}
	for _, ref := range p.o.Base.Refs {
		if gone[ref.OID] && ref.Name != "HEAD" { // which is one of the branches
			lost = append(lost, ref)
		}
	}
	slices.SortFunc(lost, func(a, b bundle.GitRef) int { return strings.Compare(a.Name, b.Name) })
	if len(gone) > 0 || len(from.commits) > bundle.MaxGitPrerequisites {
		return start{}, lost, nil
	}
	return from, nil, nil
}

// peelBase gives the commits that the base's objects are or peel to, and adds those that are not here to gone.
func (p *packer) peelBase(ctx context.Context, oids []string, gone map[string]bool) (commits []string, err error) {
	var asked strings.Builder
	for _, oid := range oids {
		asked.WriteString(oid + "\n" + oid + "^{commit}\n")
	}
	n := 0
	err = p.git.lines(ctx, p.repo, strings.NewReader(asked.String()), func(line string) error {
		if n == 2*len(oids) {
			return errors.New("git cat-file: too many answers")
		}
		oid, kind, _ := strings.Cut(line, " ")
		there := sha1Pattern.MatchString(oid) && kind != "missing"
		switch {
		case n%2 == 0 && !there:
			gone[oids[n/2]] = true
		case n%2 == 1 && there:
			commits = append(commits, oid)
		}
		n++
		return nil
	}, "cat-file", "--batch-check=%(objectname) %(objecttype)", "--buffer")
	if err == nil && n != 2*len(oids) {
		err = fmt.Errorf("git cat-file: %d answers to %d questions", n, 2*len(oids))
	}
	slices.Sort(commits)
	return slices.Compact(commits), err
}

// findUnreached adds to gone what is here and the refs do not lead to.
func (p *packer) findUnreached(ctx context.Context, refs []bundle.GitRef, oids []string, gone map[string]bool) error {
	var revs strings.Builder
	tips := make(map[string]bool, len(oids))
	for _, oid := range oids {
		if !gone[oid] {
			tips[oid] = true
			revs.WriteString(oid + "\n")
		}
	}
	if len(tips) == 0 {
		return nil
	}
	for _, ref := range refs {
		revs.WriteString("^" + ref.OID + "\n")
	}
	return p.git.lines(ctx, p.repo, strings.NewReader(revs.String()), func(oid string) error {
		if tips[oid] {
			gone[oid] = true
		}
		return nil
	}, "rev-list", "--objects", "--no-object-names", "--stdin")
}
