package render

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/plimsoll/plimsoll/builder/closure"
	"github.com/plimsoll/plimsoll/builder/gitops"
)

// repository is one of the request, open.
type repository struct {
	closure.Repository
	objects *objects // of a bare repository
	root    *os.Root // of a plain folder
	folder  *tree
	trees   map[string]*tree // of a bare repository, by id
}

// revision is the content of a repository under one name.
type revision struct {
	repo *repository
	name string // full ref name, a commit, or empty for a plain folder
	tree *tree
}

// repositories are all of the request. They are a gitops.Lookup.
type repositories []*repository

func openRepository(ctx context.Context, r closure.Repository, git, home string) (*repository, error) {
	repo := &repository{Repository: r, trees: make(map[string]*tree)}
	var err error
	switch {
	case (r.GitDir == "") == (r.Dir == ""):
		return nil, fmt.Errorf("repository %s: want either gitDir or dir", r.Item)
	case r.GitDir != "":
		var dir string
		if dir, err = filepath.Abs(r.GitDir); err == nil {
			repo.objects, err = openObjects(ctx, git, dir, home)
		}
	default:
		if repo.root, err = os.OpenRoot(r.Dir); err == nil {
			repo.folder, err = folderTree(repo.root)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("repository %s: %w", r.Item, pathless(err)), repo.close())
	}
	return repo, nil
}

func (r *repository) close() error {
	var err error
	if r.objects != nil {
		err = r.objects.close()
	}
	if r.root != nil {
		err = errors.Join(err, r.root.Close())
	}
	return err
}

// branches are the revisions that are rendered completely, sorted.
func (r *repository) branches() []closure.Revision {
	if r.folder != nil {
		return []closure.Revision{{}}
	}
	var found []closure.Revision
	for _, rev := range r.Revisions {
		if strings.HasPrefix(rev.Name, "refs/heads/") {
			found = append(found, rev)
		}
	}
	slices.SortFunc(found, func(a, b closure.Revision) int { return cmp.Compare(a.Name, b.Name) })
	return found
}

// at gives the content of a commit under a name. Two names of the same tree share it.
func (r *repository) at(name, commit string) (*revision, error) {
	if r.folder != nil {
		return &revision{r, "", r.folder}, nil
	}
	if !commitPattern.MatchString(commit) { // a line feed in it would be another request to git
		return nil, fmt.Errorf("%q is no commit", commit)
	}
	id, err := r.objects.commitTree(commit)
	if err != nil {
		return nil, err
	}
	if r.trees[id] == nil {
		t, err := r.objects.tree(id)
		if err != nil {
			return nil, err
		}
		r.trees[id] = t
	}
	return &revision{r, name, r.trees[id]}, nil
}

var commitPattern = regexp.MustCompile(`^[0-9a-f]{7,40}$`)

// resolve finds what a revision in a manifest means: a full or short ref name, a commit, a version constraint among the
// tags, or, when it is empty or HEAD, the head.
func (r *repository) resolve(rev string) (*revision, error) {
	if r.folder != nil {
		return r.at("", "")
	}
	if rev == "" || rev == "HEAD" {
		rev = r.Head
	}
	for _, name := range []string{rev, "refs/heads/" + rev, "refs/tags/" + rev, "refs/" + rev} {
		for _, have := range r.Revisions {
			if have.Name == name {
				return r.at(have.Name, have.Commit)
			}
		}
	}
	if commitPattern.MatchString(rev) {
		for _, have := range r.Revisions {
			if strings.HasPrefix(have.Commit, rev) {
				return r.at(have.Name, have.Commit)
			}
		}
		return r.commit(rev)
	}
	if tag := r.newestTag(rev); tag != nil {
		return r.at(tag.Name, tag.Commit)
	}
	return nil, fs.ErrNotExist
}

// commit finds a commit in the history of what is packed.
func (r *repository) commit(rev string) (*revision, error) {
	id, _, err := r.objects.get(rev+"^{commit}", "commit", maxTreeObject)
	if errors.Is(err, errNoObject) {
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	return r.at(id, id)
}

// newestTag is the one that Argo CD and Flux take for a constraint: v1.*, >=1.0.0 <2.0.0.
func (r *repository) newestTag(constraint string) *closure.Revision {
	want, err := semver.NewConstraint(constraint)
	if err != nil {
		return nil
	}
	var best *semver.Version
	var tag *closure.Revision
	for i, have := range r.Revisions {
		text, ok := strings.CutPrefix(have.Name, "refs/tags/")
		if !ok {
			continue
		}
		v, err := semver.NewVersion(text)
		if err == nil && want.Check(v) && (best == nil || v.GreaterThan(best)) {
			best, tag = v, &r.Revisions[i]
		}
	}
	return tag
}

// find gives a revision of the repository that a URL names; fs.ErrNotExist when the bundle does not carry it.
func (rs repositories) find(url, rev string) (*revision, error) {
	for _, r := range rs {
		if slices.ContainsFunc(r.URLs, func(have string) bool { return closure.SameRepository(have, url) }) {
			return r.resolve(rev)
		}
	}
	return nil, fs.ErrNotExist
}

// Tree implements gitops.Lookup.
func (rs repositories) Tree(url, rev string) (gitops.Tree, error) {
	r, err := rs.find(url, rev)
	if err != nil {
		return gitops.Tree{}, err
	}
	return gitops.Tree{FS: strictTree{r.tree}, Item: r.repo.Item, Revision: r.name}, nil
}

func (rs repositories) close() error {
	var err error
	for _, r := range rs {
		err = errors.Join(err, r.close())
	}
	return err
}
