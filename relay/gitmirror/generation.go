package gitmirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/bundle"
)

// Repository is a Git repository and where it is served.
type Repository struct {
	Path string     // host/path without .git: github.com/acme/robot-deployment
	Git  bundle.Git //
}

// Generation is one immutable state of all repositories.
type Generation struct {
	number uint64
	repos  []Repository          // sorted by path
	routes map[string]Repository // by routeKey of the path

	adverts adverts
}

// Number is the n that Prepare was given.
func (g *Generation) Number() uint64 { return g.number }

// Repositories lists what is served, sorted by path. The caller must not change it.
func (g *Generation) Repositories() []Repository { return g.repos }

// NewGeneration computes a generation without looking at any folder; Prepare also writes it.
func NewGeneration(n uint64, repos []Repository) (*Generation, error) {
	g := &Generation{number: n, repos: slices.Clone(repos), routes: make(map[string]Repository, len(repos))}
	slices.SortFunc(g.repos, func(a, b Repository) int { return strings.Compare(a.Path, b.Path) })
	for _, repo := range g.repos {
		if err := bundle.CheckGitPath(repo.Path); err != nil {
			return nil, &RefusedError{Repository: repo.Path, Reason: err.Error()}
		}
		if strings.Contains(repo.Path, ".git/") { // host/x.git/y would lie inside the folder of host/x
			return nil, &RefusedError{Repository: repo.Path, Reason: "a folder of the path ends in .git"}
		}
		if err := checkGit(repo.Path, repo.Git); err != nil {
			return nil, err
		}
		key := routeKey(repo.Path)
		if other, dup := g.routes[key]; dup {
			return nil, &RefusedError{Repository: repo.Path, Reason: "its place is taken by " + other.Path}
		}
		g.routes[key] = repo
	}
	return g, nil
}

// Prepare writes generation n. Its objects must have been admitted: *IncompleteError otherwise. If the folder is there
// with the same content it is used as it is, and nothing is asked of git; if it has other content, left by an activation
// that never was, or by a power cut, it is replaced.
func (m *Mirror) Prepare(ctx context.Context, n uint64, repos []Repository) (*Generation, error) {
	g, err := NewGeneration(n, repos)
	if err != nil {
		return nil, err
	}
	asOf := m.doubt()
	if err := m.prepare(ctx, g); err != nil {
		var refused *RefusedError
		var incomplete *IncompleteError
		if errors.As(err, &refused) || errors.As(err, &incomplete) {
			return nil, err
		}
		return nil, fmt.Errorf("prepare git generation %d: %w", n, err)
	}
	for _, repo := range g.repos {
		m.setSound(asOf, repo.Git)
	}
	return g, nil
}

func (m *Mirror) prepare(ctx context.Context, g *Generation) error {
	same, err := m.onDisk(g)
	if err != nil {
		return err
	}
	if same {
		return nil
	}
	unlock, err := m.lockImport()
	if err != nil {
		return err
	}
	defer unlock()
	for _, repo := range g.repos {
		if m.Admitted(repo.Path, repo.Git) {
			continue
		}
		if err := m.checkRefs(ctx, m.path(storeName), repo.Path, repo.Git); err != nil {
			return err
		}
	}
	packs, err := m.packs()
	if err != nil {
		return err
	}
	files, folders := g.layout()
	files[packsFile] = packsText(packs)
	return m.writeGeneration(g.number, files, folders)
}

// onDisk reports whether the folder of the generation has its content, and the store the packs that it was made with.
func (m *Mirror) onDisk(g *Generation) (bool, error) {
	packs, err := m.packsOf(g.number)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errDiffers) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	files, folders := g.layout()
	files[packsFile] = packs
	return sameTree(m.generationDir(g.number), files, folders)
}

func (m *Mirror) writeGeneration(n uint64, files map[string]string, folders []string) error {
	tmp, err := os.MkdirTemp(m.path(quarantineName), "gen-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	fresh := filepath.Join(tmp, "gen")
	// Nothing is synced: a power cut may take of it what it likes. The next start compares every file, and writes the folder
	// anew from what was decided.
	if err := writeRepository(fresh, files, folders); err != nil {
		return err
	}
	m.at("generation written")
	err = os.Rename(fresh, m.generationDir(n))
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
		if err := m.discard(n); err != nil {
			return err
		}
		err = os.Rename(fresh, m.generationDir(n))
	}
	return err
}

// layout gives the content of the generation's folder: files, without packsFile, and those folders that hold no file.
func (g *Generation) layout() (files map[string]string, folders []string) {
	files = make(map[string]string, 4*len(g.repos)+1)
	for _, repo := range g.repos {
		own, more := repo.layout()
		maps.Copy(files, own)
		folders = append(folders, more...)
	}
	return files, folders
}

func (repo Repository) layout() (files map[string]string, folders []string) {
	dir := repo.Path + ".git"
	// Up from <dir>/objects to the mirror's folder: relative, so that the folder can be moved.
	up := strings.Repeat("../", strings.Count(dir, "/")+3)
	return map[string]string{
		dir + "/HEAD":                    "ref: " + repo.Git.Head + "\n",
		dir + "/config":                  servedConfig,
		dir + "/packed-refs":             packedRefs(repo.Git),
		dir + "/objects/info/alternates": up + storeName + "/objects\n",
	}, []string{dir + "/objects/pack", dir + "/refs"}
}

// servedConfig lets a client finish what it began in the generation before: it may ask for a commit that no ref shows
// any more. Every object of the store is approved.
const servedConfig = `[core]
	repositoryformatversion = 0
	bare = true
[uploadpack]
	allowAnySHA1InWant = true
	allowFilter = true
`

// packedRefs writes the format of git-pack-refs(1). "fully-peeled" promises that a tag without a peeled line is no
// annotated tag, which Admit has checked.
func packedRefs(g bundle.Git) string {
	var b strings.Builder
	b.WriteString("# pack-refs with: peeled fully-peeled sorted \n")
	for _, ref := range g.Refs {
		b.WriteString(ref.OID + " " + ref.Name + "\n")
		if ref.Peeled != "" {
			b.WriteString("^" + ref.Peeled + "\n")
		}
	}
	return b.String()
}

// storeFiles and storeFolders are an empty repository.
func storeFiles() map[string]string {
	return map[string]string{
		"HEAD":   "ref: refs/heads/none\n",
		"config": "[core]\n\trepositoryformatversion = 0\n\tbare = true\n",
	}
}

func storeFolders() []string { return []string{"objects/info", "objects/pack", "refs"} }

// writeRepository writes files and folders beneath dir. The caller renames dir into place.
func writeRepository(dir string, files map[string]string, folders []string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // MkdirTemp's 0700 would shut out a relay that runs as another user
		return err
	}
	for _, folder := range folders {
		if err := os.MkdirAll(filepath.Join(dir, filepath.FromSlash(folder)), 0o755); err != nil {
			return err
		}
	}
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// syncTree makes a folder and everything in it durable.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return syncFile(path)
	})
}

// syncFile makes a file's content, or a folder's entries, durable.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// sameTree reports whether dir holds exactly these files with this content, and these folders.
func sameTree(dir string, files map[string]string, folders []string) (bool, error) {
	want := map[string]bool{".": true} // every path; its value says whether it is a folder
	addFolder := func(p string) {
		for ; p != "."; p = filepath.Dir(p) {
			want[p] = true
		}
	}
	for _, folder := range folders {
		addFolder(filepath.FromSlash(folder))
	}
	for name := range files {
		want[filepath.FromSlash(name)] = false
		addFolder(filepath.Dir(filepath.FromSlash(name)))
	}
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		folder, ok := want[rel]
		if !ok || folder != d.IsDir() || !folder && !d.Type().IsRegular() {
			return errDiffers
		}
		seen++
		if folder {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if string(content) != files[filepath.ToSlash(rel)] {
			return errDiffers
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errDiffers) {
		return false, nil
	}
	return err == nil && seen == len(want), err
}

var errDiffers = errors.New("differs")
