// Package shadow finds what a site's own files hide of a new release.
//
// A site keeps local values in a repository of its own, beside what the release brings. A file there at path P lies over
//
//   - the file at the same path P of each Git repository of the release, or, when P starts with the place of one of them
//     (github.com/acme/robot-deployment/robot-values/line-2.yaml), over the rest of P in that repository only;
//   - the default values of the chart X, when P is X/values.yaml or charts/X/values.yaml.
//
// The file that lies below is compared between the old and the new release, key by key as Helm merges values: maps are
// merged, a list is one value, and so is whatever is a map on one side only. Each key that the site's file sets and whose
// value below differs (changed, added, removed) is a Shadow: the new release changed something there that the site will
// not see. Documents of a file with several are paired by kind, namespace and name, others by their order.
//
// Only .yaml, .yml and .json files have keys. What cannot be read is a Problem, not an error: a slip of the pen in a local
// file must not keep a release from being imported.
package shadow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"
)

// The limits of what is compared. What is beyond them is a Problem.
const (
	MaxFile    = 1 << 20 // bytes of one file
	MaxFiles   = 20_000  // files of the site's repository that are looked at
	MaxShadows = 10_000  // and MaxProblems: in one report
	MaxProblems
)

// Tree is a folder of files: a commit, or the values of a chart.
type Tree interface {
	// ReadFile gives the content of a file by its slash-separated path. The error is one for which
	// errors.Is(err, fs.ErrNotExist) holds, a *TooLargeError, or what keeps the whole tree from being read.
	ReadFile(path string) ([]byte, error)
	// Files lists the paths of the regular files.
	Files() iter.Seq[string]
}

// TooLargeError says that a file is larger than MaxFile.
type TooLargeError struct {
	Path string
	Size int64 // bytes
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("%s: %d bytes, the limit is %d", e.Path, e.Size, MaxFile)
}

// Files is a Tree in memory.
type Files map[string][]byte

// ReadFile implements Tree.
func (f Files) ReadFile(name string) ([]byte, error) {
	data, ok := f[name]
	if !ok {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	if len(data) > MaxFile {
		return nil, &TooLargeError{Path: name, Size: int64(len(data))}
	}
	return data, nil
}

// Files implements Tree.
func (f Files) Files() iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range f {
			if !yield(name) {
				return
			}
		}
	}
}

// Base is one thing of the release that the site's files may lie over, as it was and as it is going to be.
type Base struct {
	Name       string // what reports call it: "github.com/acme/robot-deployment refs/heads/main", "chart robot-app"
	Repository string // of a Git repository, where the site serves it: github.com/acme/robot-deployment
	Chart      string // of a chart, its name; the trees then have its values as values.yaml
	Before     Tree   // in the old release; nil: it was not there
	After      Tree   // in the new release; nil: it is not there any more
}

// Shadow is a key that the site sets and that the new release changed below.
//
// Values are JSON on one line, cut at a few hundred characters; "" is no value. The values of keys that look like secrets
// are Hidden.
type Shadow struct {
	File     string `json:"file"`               // in the site's repository
	Line     int    `json:"line"`               // of the key in File, from 1
	Document string `json:"document,omitempty"` // which of several in File: Deployment/robots/robot-app, or document 2; empty when there is one
	Key      string `json:"key"`                // a.b.c; parts that are not plain words stand in double quotes
	Override string `json:"override"`           // what the site sets
	Before   string `json:"before"`             // what the old release has below
	After    string `json:"after"`              // what the new release has below
	Same     bool   `json:"same"`               // the site sets what the new release has: the key can go
	Source   string `json:"source"`             // the file below: the Base's name and the path in it
}

// Problem is a file that could not be compared.
type Problem struct {
	File   string `json:"file"`             // in the site's repository
	Line   int    `json:"line,omitempty"`   // from 1; 0 when it is not known, and of a file below
	Source string `json:"source,omitempty"` // the file below that is the reason; empty: File itself is
	Reason string `json:"reason"`
}

func (p Problem) String() string {
	place := p.File
	if p.Line > 0 {
		place = fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	if p.Source != "" {
		return fmt.Sprintf("%s: compared with %s: %s", place, p.Source, p.Reason)
	}
	return place + ": " + p.Reason
}

// Report is what Find found: shadows sorted by file, line and key, problems by file.
type Report struct {
	Shadows  []Shadow
	Problems []Problem
	Cut      bool // there is more than MaxShadows, MaxProblems or MaxFiles
}

// Find compares what lies below the files of overrides. The error is ctx's or that of a tree that cannot be read at all.
func Find(ctx context.Context, overrides Tree, bases []Base) (*Report, error) {
	f := &finder{report: &Report{}}
	var names []string
	for name := range overrides.Files() {
		if !hasKeys(name) {
			continue
		}
		if len(names) == MaxFiles {
			f.report.Cut = true
			break
		}
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := f.file(overrides, name, bases); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(f.report.Shadows, func(a, b Shadow) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Key, b.Key))
	})
	return f.report, nil
}

func hasKeys(name string) bool {
	switch path.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// below is a file of a base.
type below struct {
	base *Base
	path string
}

func (b below) String() string { return b.base.Name + ": " + b.path }

// candidates lists the files that the site's file lies over if they exist.
func candidates(name string, bases []Base) []below {
	var list []below
	explicit := ""
	for i := range bases {
		if repo := bases[i].Repository; repo != "" && strings.HasPrefix(name, repo+"/") && len(repo) > len(explicit) {
			explicit = repo // the longest: host/a/b before host/a
		}
	}
	for i := range bases {
		b := &bases[i]
		switch {
		case b.Chart != "":
			if name == b.Chart+"/values.yaml" || name == "charts/"+b.Chart+"/values.yaml" {
				list = append(list, below{b, "values.yaml"})
			}
		case explicit != "":
			if b.Repository == explicit {
				list = append(list, below{b, strings.TrimPrefix(name, explicit+"/")})
			}
		default:
			list = append(list, below{b, name})
		}
	}
	return list
}

// finder collects a report.
type finder struct{ report *Report }

func (f *finder) problem(p Problem) {
	if len(f.report.Problems) == MaxProblems {
		f.report.Cut = true
		return
	}
	f.report.Problems = append(f.report.Problems, p)
}

// file compares all that lies below one file of the site.
func (f *finder) file(overrides Tree, name string, bases []Base) error {
	var over []document // read when the first file below it was found
	for _, c := range candidates(name, bases) {
		before, had, err := f.read(c.base.Before, name, c)
		if err != nil {
			return err
		}
		after, has, err := f.read(c.base.After, name, c)
		if err != nil {
			return err
		}
		if !had && !has {
			continue
		}
		if over == nil {
			if over, err = f.override(overrides, name); err != nil || over == nil {
				return err
			}
		}
		if had == has && string(before) == string(after) {
			continue
		}
		old, ok := f.parseBelow(before, name, c, "the old release")
		if !ok {
			continue
		}
		fresh, ok := f.parseBelow(after, name, c, "the new release")
		if !ok {
			continue
		}
		f.compare(name, c, over, old, fresh)
	}
	return nil
}

// read gives a file below, and whether it is there. One that is too large is a problem and counts as not there.
func (f *finder) read(t Tree, name string, c below) (data []byte, there bool, err error) {
	if t == nil {
		return nil, false, nil
	}
	data, err = t.ReadFile(c.path)
	var large *TooLargeError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, false, nil
	case errors.As(err, &large):
		f.problem(Problem{File: name, Source: c.String(), Reason: large.Error()})
		return nil, false, nil
	case err != nil:
		return nil, false, fmt.Errorf("read %s: %w", c, err)
	}
	return data, true, nil
}

// override reads the site's file; nil without an error means that it was a problem.
func (f *finder) override(overrides Tree, name string) ([]document, error) {
	data, err := overrides.ReadFile(name)
	var large *TooLargeError
	if errors.As(err, &large) {
		f.problem(Problem{File: name, Reason: fmt.Sprintf("%d bytes, the limit is %d", large.Size, MaxFile)})
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of the site: %w", name, err)
	}
	docs, bad := parse(data)
	if bad != nil {
		f.problem(Problem{File: name, Line: bad.line, Reason: bad.reason})
		return nil, nil
	}
	if docs == nil {
		docs = []document{} // read, and empty
	}
	return docs, nil
}

func (f *finder) parseBelow(data []byte, name string, c below, when string) ([]document, bool) {
	docs, bad := parse(data)
	if bad != nil {
		f.problem(Problem{File: name, Source: c.String(), Reason: fmt.Sprintf("line %d in %s: %s", bad.line, when, bad.reason)})
	}
	return docs, bad == nil
}

// compare pairs the documents and compares each pair.
func (f *finder) compare(name string, c below, over, old, fresh []document) {
	for i := range over {
		w := &walk{finder: f, file: name, source: c.String()}
		if len(over) > 1 || len(old) > 1 || len(fresh) > 1 {
			w.document = over[i].name(i)
		}
		w.value(nil, over[i].line, over[i].root, pair(over, old, i), pair(over, fresh, i))
	}
}

// pair finds the document that the site's document i lies over.
func pair(over, base []document, i int) *value {
	if len(over) == 1 && len(base) == 1 {
		return base[0].root
	}
	id, nth := over[i].id, 0
	for _, d := range over[:i] {
		if d.id == id {
			nth++
		}
	}
	for _, d := range base {
		if d.id != id {
			continue
		}
		if nth == 0 {
			return d.root
		}
		nth--
	}
	return nil
}

// walk goes through one document of the site.
type walk struct {
	*finder
	file, document, source string
}

// value compares below one key. before and after are nil where there is nothing.
func (w *walk) value(at []string, line int, over, before, after *value) {
	if over.kind == mapping && len(over.keys) > 0 && before.merges() && after.merges() {
		for _, key := range over.keys {
			field := over.fields[key]
			w.value(append(at[:len(at):len(at)], key), field.line, field.value, before.field(key), after.field(key))
		}
		return
	}
	if equal(before, after) {
		return
	}
	if len(w.report.Shadows) == MaxShadows {
		w.report.Cut = true
		return
	}
	hide := slices.ContainsFunc(at, secretName)
	w.report.Shadows = append(w.report.Shadows, Shadow{
		File: w.file, Line: line, Document: w.document, Key: keyPath(at), Source: w.source,
		Override: show(over, hide), Before: show(before, hide), After: show(after, hide), Same: equal(over, after),
	})
}
