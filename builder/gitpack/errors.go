package gitpack

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"syscall"

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

// GoneError says that a source does not have, or does not give, an object that a lock pins.
type GoneError struct {
	Source string
	Ref    string // the name it is pinned under
	OID    string
	Err    error // what git said
}

func (e *GoneError) Error() string {
	return fmt.Sprintf("git %s: %s: object %s is not to be had any more", e.Source, e.Ref, e.OID)
}

// Unwrap gives what git said.
func (e *GoneError) Unwrap() error { return e.Err }

// ObjectError says that an object breaks a rule of fsck (git-fsck(1)): a name that leads out of a checkout, for example.
type ObjectError struct {
	Source string
	Object string // its id
	Rule   string // hasDotgit, for example
	Reason string
	Err    error // what git said
}

func (e *ObjectError) Error() string {
	return fmt.Sprintf("git %s: object %s is refused: %s: %s", e.Source, e.Object, e.Rule, e.Reason)
}

// Unwrap gives what git said.
func (e *ObjectError) Unwrap() error { return e.Err }

// TreeError says that a tree is too big for what has to check it out.
type TreeError struct {
	Source string
	Ref    string // it was met in
	Path   string // of the folder, empty at the top
	Object string // the tree's id
	Reason string
}

func (e *TreeError) Error() string {
	return fmt.Sprintf("git %s: tree %s, %.200q in %s: %s", e.Source, e.Object, e.Path, e.Ref, e.Reason)
}

// MemoryError says that git was about to take more memory at once than MaxAllocation.
type MemoryError struct {
	Source string
	Err    error // what git said
}

func (e *MemoryError) Error() string {
	return fmt.Sprintf("git %s: an object takes more memory than is allowed, as one does that is blown up by deltas: %v", e.Source, e.Err)
}

// Unwrap gives what git said.
func (e *MemoryError) Unwrap() error { return e.Err }

// NoSpaceError says that the disk with the scratch folder is full; errors.Is(err, syscall.ENOSPC) holds.
type NoSpaceError struct {
	Source string
	Dir    string // the scratch folder
	Err    error
}

func (e *NoSpaceError) Error() string {
	return fmt.Sprintf("git %s: no space left for the scratch folder %s, which takes the repository twice: %v", e.Source, e.Dir, e.Err)
}

// Is makes it an ENOSPC also when only git's words say so.
func (e *NoSpaceError) Is(target error) bool { return target == syscall.ENOSPC }

// Unwrap gives what was said first.
func (e *NoSpaceError) Unwrap() error { return e.Err }

// fsckFinding is what index-pack writes about the object that it refuses; a warning starts otherwise.
var fsckFinding = regexp.MustCompile(`(?:^|;)error: object ([0-9a-f]{40}): ([A-Za-z0-9]+): ([^;]*)`)

// explain finds the reason in what git said.
func (p *packer) explain(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &NoSpaceError{Source: p.o.Source, Dir: p.scratch, Err: err}
	}
	var ge *GitError
	if !errors.As(err, &ge) {
		return err
	}
	if m := fsckFinding.FindStringSubmatch(ge.Stderr); m != nil {
		return &ObjectError{Source: p.o.Source, Object: m[1], Rule: m[2], Reason: m[3], Err: ge}
	}
	for line := range strings.SplitSeq(ge.Stderr, ";") {
		switch {
		case strings.HasPrefix(line, "remote:"): // the other side's trouble
		case strings.Contains(line, "No space left on device"), strings.Contains(line, "Disk quota exceeded"):
			return &NoSpaceError{Source: p.o.Source, Dir: p.scratch, Err: ge}
		case strings.Contains(line, "attempting to allocate") && strings.Contains(line, "over limit"):
			return &MemoryError{Source: p.o.Source, Err: ge}
		}
	}
	return err
}

// Place is a path in the tree of a ref.
type Place struct{ Ref, Path string }

func (p Place) String() string { return p.Path + " in " + p.Ref }

// SubmoduleError says that trees refer to commits of other repositories, which a bundle does not carry.
type SubmoduleError struct {
	Source string
	Places []Place // each submodule once, with the first ref it was met in; at most MaxPlaces
}

func (e *SubmoduleError) Error() string {
	return fmt.Sprintf("git %s: submodules are not carried: %s; carry each submodule's repository as a Git item of its own, and put "+
		"the files that are needed here into this repository (git subtree add)", e.Source, listed(placeNames(e.Places), 5))
}

// LFSError says that files are kept in Git LFS, outside the repository, which a bundle does not carry.
type LFSError struct {
	Source string
	Places []Place // the .gitattributes files with filter=lfs, each once; at most MaxPlaces
}

func (e *LFSError) Error() string {
	return fmt.Sprintf("git %s: files in Git LFS are not carried: filter=lfs is set by %s; bring them back into the repository "+
		"(git lfs migrate export --everything --include='*'), or carry them as file items", e.Source, listed(placeNames(e.Places), 5))
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
