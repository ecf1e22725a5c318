package gitpack

import (
	"fmt"
	"strings"

	"github.com/plimsoll/plimsoll/internal/gitcmd"
)

// SourceError says why a source is not used.
type SourceError struct {
	Source string
	Reason string
}

func (e *SourceError) Error() string { return fmt.Sprintf("git source %q: %s", e.Source, e.Reason) }

// NoRefsError says that a pattern matches no branch and no tag.
type NoRefsError struct {
	Source  string
	Pattern string   // empty when all were asked for
	Have    []string // full names of the source's branches and tags
}

func (e *NoRefsError) Error() string {
	if len(e.Have) == 0 {
		return fmt.Sprintf("git %s: it has no branches and no tags", e.Source)
	}
	return fmt.Sprintf("git %s: no branch or tag matches %q; it has %s", e.Source, e.Pattern, listed(e.Have, 10))
}

// HeadError says that HEAD cannot name what was asked for.
type HeadError struct {
	Source   string
	Head     string
	Branches []string // full names of the chosen branches
}

func (e *HeadError) Error() string {
	if len(e.Branches) == 0 {
		return fmt.Sprintf("git %s: HEAD %q: no branch is packed", e.Source, e.Head)
	}
	return fmt.Sprintf("git %s: HEAD %q is not one of the packed branches %s", e.Source, e.Head, listed(e.Branches, 10))
}

// ShallowError says that the source lacks a part of its history.
type ShallowError struct{ Source string }

func (e *ShallowError) Error() string {
	return fmt.Sprintf("git %s: the repository is shallow; a site needs the whole history (git fetch --unshallow)", e.Source)
}

// Place is a path in the tree of a ref.
type Place struct{ Ref, Path string }

func (p Place) String() string { return p.Path + " in " + p.Ref }

// SubmoduleError says that trees refer to commits of other repositories, which a bundle does not carry yet.
type SubmoduleError struct {
	Source string
	Places []Place // each submodule once, with the first ref it was met in; at most MaxPlaces
}

func (e *SubmoduleError) Error() string {
	return fmt.Sprintf("git %s: submodules are not carried: %s", e.Source, listed(placeNames(e.Places), 5))
}

// LFSError says that files are kept in Git LFS, outside the repository, which a bundle does not carry yet.
type LFSError struct {
	Source string
	Places []Place // the .gitattributes files with filter=lfs, each once; at most MaxPlaces
}

func (e *LFSError) Error() string {
	return fmt.Sprintf("git %s: files in Git LFS are not carried: filter=lfs is set by %s", e.Source, listed(placeNames(e.Places), 5))
}

// MaxPlaces bounds the lists in SubmoduleError and LFSError.
const MaxPlaces = 100

func placeNames(places []Place) []string {
	names := make([]string, len(places))
	for i, p := range places {
		names[i] = p.String()
	}
	return names
}

func listed(names []string, show int) string {
	text := strings.Join(names[:min(show, len(names))], ", ")
	if len(names) > show {
		text += fmt.Sprintf(" and %d more", len(names)-show)
	}
	return text
}

// GitError says what git said when it gave up.
type GitError = gitcmd.Error
