package gitpack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/plimsoll/plimsoll/bundle"
)

var (
	remoteHelper  = regexp.MustCompile(`^[A-Za-z0-9+.-]+::`)
	urlScheme     = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9+.-]*)://`)
	urlPassword   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*://[^/@]*:[^/@]*@`)
	allowedScheme = regexp.MustCompile(`^(?i:https?|ssh|git|file|git\+ssh|ssh\+git)$`)
)

const maxSource = 4096 // bytes

// checkSource refuses what git would take for something other than the place of a repository, and makes paths absolute.
func checkSource(source string) (string, error) {
	refuse := func(format string, args ...any) (string, error) {
		return "", &SourceError{Source: source, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case source == "":
		return refuse("it is empty")
	case len(source) > maxSource:
		return "", &SourceError{Source: source[:64] + "…", Reason: fmt.Sprintf("it is longer than %d bytes", maxSource)}
	case strings.HasPrefix(source, "-"):
		return refuse("it starts with '-', as an option does")
	case strings.ContainsFunc(source, func(r rune) bool { return r < 0x20 || r == 0x7f }):
		return refuse("it has control characters")
	case remoteHelper.MatchString(source):
		return refuse("remote helpers are not allowed")
	case urlPassword.MatchString(source):
		at := strings.IndexByte(source, '@')
		return "", &SourceError{Source: source[:strings.Index(source, "://")+3] + "…" + source[at:],
			Reason: "a password in a URL would be published with the lock; use a credential helper"}
	}
	if m := urlScheme.FindStringSubmatch(source); m != nil {
		if !allowedScheme.MatchString(m[1]) {
			return refuse("protocol %q is not allowed", m[1])
		}
		return source, nil
	}
	_, err := os.Stat(source)
	if err == nil {
		return filepath.Abs(source)
	}
	colon, slash := strings.IndexByte(source, ':'), strings.IndexByte(source, '/')
	if colon > 0 && (slash < 0 || colon < slash) { // host:path, as in git-clone(1)
		return source, nil
	}
	if errors.Is(err, fs.ErrNotExist) { // or git would look for a remote of that name in the user's configuration
		return refuse("there is no such folder")
	}
	return refuse("%v", err)
}

// listing is what a source shows: its branches and tags, and where its HEAD is.
type listing struct {
	names   []string          // sorted as the source sent them
	oids    map[string]string // by name
	head    string            // the ref that HEAD names; empty when detached or unknown
	headOID string            // empty when HEAD leads nowhere
}

var sha1Pattern = regexp.MustCompile(`^[0-9a-f]{40}$`)

func (p *packer) listRefs(ctx context.Context) (*listing, error) {
	l := &listing{oids: make(map[string]string)}
	err := p.git.remote(ctx, p.repo, nil, func(line string) error {
		return l.add(p.o.Source, line)
	}, "ls-remote", "--symref", "--", p.source, "HEAD", "refs/heads/*", "refs/tags/*")
	if err != nil {
		return nil, p.inSource(ctx, err)
	}
	return l, nil
}

// add takes one line of ls-remote; source is for errors.
func (l *listing) add(source, line string) error {
	oid, name, ok := strings.Cut(line, "\t")
	if !ok {
		return fmt.Errorf("git ls-remote: line %.100q", line)
	}
	if target, ok := strings.CutPrefix(oid, "ref: "); ok {
		if name == "HEAD" {
			l.head = target
		}
		return nil
	}
	if len(oid) == 64 {
		return &SourceError{Source: source, Reason: "repositories with SHA-256 object ids are not carried"}
	}
	if !sha1Pattern.MatchString(oid) {
		return fmt.Errorf("git ls-remote: line %.100q", line)
	}
	switch {
	case name == "HEAD":
		l.headOID = oid
	case strings.HasSuffix(name, "^{}"):
	case strings.HasPrefix(name, "refs/heads/"), strings.HasPrefix(name, "refs/tags/"):
		if _, dup := l.oids[name]; !dup {
			l.names = append(l.names, name)
		}
		l.oids[name] = oid
	}
	return nil
}

func (p *packer) inSource(ctx context.Context, err error) error {
	var se *SourceError
	if errors.As(err, &se) || ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("git %s: %w", p.o.Source, err)
}

// choose gives the names that the patterns match. Each pattern must match something: a misspelt one would otherwise
// leave out what a site needs, in silence.
func (p *packer) choose(l *listing) ([]string, error) {
	if len(p.o.Pinned) > 0 {
		return p.pinnedNames()
	}
	if len(l.names) == 0 {
		return nil, &NoRefsError{Source: p.o.Source}
	}
	chosen := make(map[string]bool, len(l.names))
	patterns := p.o.Refs
	if len(patterns) == 0 {
		patterns = []string{"*"}
	}
	for _, pattern := range patterns {
		found := false
		for _, name := range l.names {
			if Match(pattern, name) {
				found, chosen[name] = true, true
			}
		}
		if !found {
			return nil, &NoRefsError{Source: p.o.Source, Pattern: pattern, Have: l.names}
		}
	}
	if len(chosen) > bundle.MaxGitRefs {
		return nil, &SourceError{Source: p.o.Source, Reason: fmt.Sprintf("%d refs are chosen, the limit is %d", len(chosen), bundle.MaxGitRefs)}
	}
	var names []string
	for _, name := range l.names {
		if !chosen[name] {
			continue
		}
		if err := bundle.CheckGitRef(name); err != nil {
			return nil, &SourceError{Source: p.o.Source, Reason: err.Error()}
		}
		names = append(names, name)
	}
	return names, nil
}

// chooseHead gives the branch that HEAD names at the site. A source's HEAD may be detached, as CI checks out, or name a
// branch that was not chosen: then it is the chosen branch that is at the same commit, else main or master, else the first.
func (p *packer) chooseHead(l *listing, chosen []string) (string, error) {
	var branches []string
	have := make(map[string]bool)
	for _, name := range chosen {
		if strings.HasPrefix(name, "refs/heads/") {
			branches = append(branches, name)
			have[name] = true
		}
	}
	if p.o.Head != "" {
		for _, name := range []string{p.o.Head, "refs/heads/" + p.o.Head} {
			if have[name] {
				return name, nil
			}
		}
		if len(p.o.Pinned) > 0 && len(branches) == 0 && bundle.CheckGitRef(p.o.Head) == nil { // as the lock has it, see below
			return p.o.Head, nil
		}
		return "", &HeadError{Source: p.o.Source, Head: p.o.Head, Branches: branches}
	}
	if have[l.head] {
		return l.head, nil
	}
	usual := []string{"refs/heads/main", "refs/heads/master"}
	if l.headOID != "" {
		for _, name := range append(usual, branches...) {
			if have[name] && l.oids[name] == l.headOID {
				return name, nil
			}
		}
	}
	for _, name := range append(usual, branches...) {
		if have[name] {
			return name, nil
		}
	}
	if bundle.CheckGitRef(l.head) == nil { // tags only: HEAD names a branch that is not there, as in a new repository
		return l.head, nil
	}
	return usual[0], nil
}

// Match reports whether a pattern means a ref, given by its full name. A pattern is a full name (refs/tags/v*) or what
// stands behind refs/, refs/heads/ or refs/tags/; '*' stands for any characters, '/' included, and '?' for one.
func Match(pattern, name string) bool {
	if glob(pattern, name) {
		return true
	}
	for _, prefix := range []string{"refs/", "refs/heads/", "refs/tags/"} {
		if short, ok := strings.CutPrefix(name, prefix); ok && glob(pattern, short) {
			return true
		}
	}
	return false
}

// glob takes time in proportion to the product of both lengths at most.
func glob(pattern, s string) bool {
	star, mark := -1, 0
	i, j := 0, 0
	for i < len(s) {
		switch {
		case j < len(pattern) && pattern[j] == '*':
			star, mark = j, i
			j++
		case j < len(pattern) && (pattern[j] == '?' || pattern[j] == s[i]):
			i, j = i+1, j+1
		case star >= 0:
			mark++
			i, j = mark, star+1
		default:
			return false
		}
	}
	return strings.Trim(pattern[j:], "*") == ""
}
