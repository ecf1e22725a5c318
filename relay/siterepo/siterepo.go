// Package siterepo keeps Git repositories that belong to the site itself: its operators push to them over the same HTTPS
// address under which robots read the mirror, and no import touches them. A factory keeps its local values there, beside
// the mirrored release (Argo CD's multiple sources with $values).
//
// A push that was acknowledged survives a power cut, and stands with the operator's name in a history that is kept for
// ever. Branches only move forward and tags stay where they are, unless Options.AllowForce names them.
//
// The folder:
//
//	repos/<name>/repo.git        the repository: bare, never collected, its reflogs kept
//	repos/<name>/pushes.jsonl    the history: one line for each ref that a push changed
//	repos/<name>/reported        how far the history was told to Options.Pushed
//	repos/<name>/lock            held while somebody pushes, by git itself, too
//	new/                         repositories that are being made
//	spool/                       large request bodies; unlinked as soon as they are created
//	home/                        the empty HOME of every git process
package siterepo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/internal/durable"
	"github.com/plimsoll/plimsoll/relay/siterepo/shadow"
	"github.com/plimsoll/plimsoll/relay/smarthttp"
	"github.com/plimsoll/plimsoll/relay/traffic"
)

// DefaultName is the repository that there is when no names are given.
const DefaultName = "site-overrides"

// The limits of names, and of how many repositories a site has.
const (
	MaxName  = 64 // bytes
	MaxNames = 64
)

// Options of a set of repositories; the zero value works.
type Options struct {
	Git   string   // the git executable; empty: "git" from PATH
	Names []string // the repositories; nil: DefaultName

	// AllowForce lists the refs that may be moved anywhere and deleted, as path.Match patterns of full names
	// (refs/heads/try-*), or as folders (refs/heads/alice/). It holds for a push that changes only such refs. What HEAD
	// names is never deleted.
	AllowForce []string

	MaxPush int64 // bytes of a push's pack; 0: 64 MiB

	// HTTP has the queues and times; its Tool, Spool and sizes are set here. A push may take TimeLimit, by default ten
	// minutes.
	HTTP smarthttp.Options

	// MirrorHost reports a host name whose repositories the mirror serves: below such a name /site/<name> is a
	// repository of that host, and /git/site/<name> still one of the site's. Nil: there is none.
	MirrorHost func(host string) bool

	// Pushed is told of each ref that a push changed, in order, before the client is answered. What was not told because
	// the process ended, or because Pushed gave an error, is told at the next push or by the next Open; a Push may come
	// twice, with the same Seq. Nil: nobody is told, and what happens meanwhile is told to a later Pushed.
	Pushed func(Push) error

	// Problem is told what does not keep requests from being answered but should be looked at. Nil: nobody is.
	Problem func(repository string, err error)
}

// Set is the site's repositories. Its methods are safe for concurrent use, also by several processes.
type Set struct {
	dir          string
	opts         Options
	tool         *smarthttp.Tool
	read, write  *smarthttp.Server
	repositories map[string]*repository

	at func(point string) // called at the moments that crash tests stop at
}

// repository is one of them.
type repository struct {
	name    string
	dir     string // repos/<name>
	queue   *traffic.Queue
	history history // only touched by who holds the lock
	suspect bool    // likewise: something may be left of a push that did not end well, or not be in the history
}

func (r *repository) git() string  { return filepath.Join(r.dir, "repo.git") }
func (r *repository) lock() string { return filepath.Join(r.dir, "lock") }

const (
	reposName = "repos"
	newName   = "new"
	spoolName = "spool"
	homeName  = "home"
)

// Open makes the repositories that are not there yet, removes what a crash left, and completes the history.
func Open(dir string, o Options) (*Set, error) {
	abs, err := filepath.Abs(dir) // git processes run in other folders
	if err != nil {
		return nil, fmt.Errorf("open site repositories: %w", err)
	}
	s := &Set{dir: abs, opts: o, repositories: make(map[string]*repository), at: func(string) {}}
	if err := s.configure(); err != nil {
		return nil, fmt.Errorf("open site repositories: %w", err)
	}
	for _, sub := range []string{reposName, newName, spoolName, homeName} {
		if err := durable.MkdirAll(filepath.Join(abs, sub), 0o755); err != nil {
			return nil, fmt.Errorf("open site repositories: %w", err)
		}
	}
	for _, name := range s.opts.Names {
		r := &repository{
			name: name, dir: filepath.Join(abs, reposName, name), suspect: true,
			queue: traffic.NewQueue(traffic.QueueOptions{Slots: 1, PerClient: 1, MaxWaiting: maxWaiting}),
		}
		if err := s.create(r); err != nil {
			return nil, fmt.Errorf("open site repository %s: %w", name, err)
		}
		s.repositories[name] = r
	}
	for _, name := range s.opts.Names {
		// Who holds the lock completes the history himself, and a git that outlived its server is waited for by the next
		// push: start-up waits for nobody.
		err := s.settle(context.Background(), s.repositories[name], tryLock)
		if err != nil && !errors.Is(err, errLocked) {
			return nil, fmt.Errorf("open site repository %s: %w", name, err)
		}
	}
	return s, nil
}

// configure checks the options and fills in what is not given.
func (s *Set) configure() error {
	o := &s.opts
	if o.Names == nil {
		o.Names = []string{DefaultName}
	}
	o.Names = slices.Clone(o.Names)
	slices.Sort(o.Names)
	if len(o.Names) > MaxNames {
		return fmt.Errorf("%d repositories, the limit is %d", len(o.Names), MaxNames)
	}
	for i, name := range o.Names {
		if err := CheckName(name); err != nil {
			return err
		}
		if i > 0 && o.Names[i-1] == name {
			return fmt.Errorf("repository %s is named twice", name)
		}
	}
	for _, pattern := range o.AllowForce {
		if _, err := path.Match(pattern, ""); err != nil || !keptRef(pattern) {
			return fmt.Errorf("refs %q: want a pattern that starts with refs/heads/ or refs/tags/", pattern)
		}
	}
	if o.MaxPush <= 0 {
		o.MaxPush = 64 << 20
	}
	if o.MirrorHost == nil {
		o.MirrorHost = func(string) bool { return false }
	}
	if o.Problem == nil {
		o.Problem = func(string, error) {}
	}
	if o.HTTP.TimeLimit <= 0 {
		o.HTTP.TimeLimit = 10 * time.Minute
	}
	var err error
	if s.tool, err = smarthttp.NewTool(o.Git, filepath.Join(s.dir, homeName)); err != nil {
		return err
	}
	h := o.HTTP
	h.Tool, h.Spool, h.MaxBody, h.MaxInflated, h.MaxSpool = s.tool, filepath.Join(s.dir, spoolName), 0, 0, 0
	s.read = smarthttp.New(h)
	// Git tells the client of a pack that is too large, in words; what is larger still is cut off.
	h.MaxBody = 2*o.MaxPush + maxHead
	h.MaxInflated = h.MaxBody
	s.write = smarthttp.New(h)
	return nil
}

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)

// CheckName refuses what cannot be the name of a repository: it stands in URLs and is a folder.
func CheckName(name string) error {
	if len(name) > MaxName || !namePattern.MatchString(name) || strings.Contains(name, "..") ||
		strings.HasSuffix(name, ".") || strings.HasSuffix(name, ".git") || strings.HasSuffix(name, ".lock") {
		return fmt.Errorf("repository name %q: want at most %d lower-case letters, digits, '.', '_' and '-', not .git or .lock at the end",
			name, MaxName)
	}
	return nil
}

// Names lists the repositories, sorted.
func (s *Set) Names() []string { return slices.Clone(s.opts.Names) }

// NoRepositoryError says that there is no repository of that name.
type NoRepositoryError struct{ Name string }

func (e *NoRepositoryError) Error() string {
	return fmt.Sprintf("there is no site repository %q", e.Name)
}

func (s *Set) repository(name string) (*repository, error) {
	r, ok := s.repositories[name]
	if !ok {
		return nil, &NoRepositoryError{Name: name}
	}
	return r, nil
}

// Tree gives the files of a branch, a tag or a commit (a full ref name or an object id); empty: of the branch main. The
// error is one for which errors.Is(err, fs.ErrNotExist) holds when it is not there, as main before the first push. The
// caller closes the tree.
func (s *Set) Tree(ctx context.Context, name, rev string) (*shadow.Commit, error) {
	r, err := s.repository(name)
	if err != nil {
		return nil, err
	}
	if rev == "" {
		rev = mainRef
	}
	return shadow.OpenCommit(ctx, shadow.Git{Path: s.tool.Path(), Home: filepath.Join(s.dir, homeName)}, r.git(), rev)
}

const mainRef = "refs/heads/main"

// create makes a repository beside its place and renames it, so that a crash leaves none that is half made.
func (s *Set) create(r *repository) error {
	fi, err := os.Lstat(r.git())
	if err == nil && fi.IsDir() {
		return checkAlternates(r)
	}
	if err == nil {
		return fmt.Errorf("%s is not a folder", r.git())
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Join(s.dir, newName), "repo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	fresh := filepath.Join(tmp, r.name)
	for _, sub := range []string{"objects/info", "objects/pack", "refs/heads", "refs/tags"} {
		if err := os.MkdirAll(filepath.Join(fresh, "repo.git", filepath.FromSlash(sub)), 0o755); err != nil {
			return err
		}
	}
	for name, content := range map[string]string{"HEAD": "ref: " + mainRef + "\n", "config": repositoryConfig} {
		if err := os.WriteFile(filepath.Join(fresh, "repo.git", name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	if err := syncTree(fresh); err != nil {
		return err
	}
	s.at("made")
	err = os.Rename(fresh, r.dir)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) { // another process was first
		_, err = os.Lstat(r.git())
	}
	if err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(r.dir))
}

// repositoryConfig is for people who look at the repository with git; the relay hands its own settings to each process.
const repositoryConfig = `[core]
	repositoryformatversion = 0
	bare = true
	logAllRefUpdates = always
[gc]
	auto = 0
	reflogExpire = never
	reflogExpireUnreachable = never
`

// AlternatesError says that a repository borrows objects from another one, which could lose them.
type AlternatesError struct{ Path string }

func (e *AlternatesError) Error() string {
	return e.Path + ": a site repository has all its objects itself"
}

func checkAlternates(r *repository) error {
	for _, name := range []string{"alternates", "http-alternates"} {
		p := filepath.Join(r.git(), "objects", "info", name)
		if _, err := os.Lstat(p); err == nil {
			return &AlternatesError{Path: p}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
