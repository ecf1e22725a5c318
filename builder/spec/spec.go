// Package spec reads bundle.yaml, the file in which a team says what a bundle carries and where a site serves it.
//
// Parse is strict: what it does not understand is an error with file, line and column, never a guess. The JSON Schema
// docs/bundle.schema.json describes the same fields for editors.
package spec

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/plimsoll/plimsoll/builder/origin"
)

// Values of the two fields that say what kind of file this is.
const (
	APIVersion = "plimsoll.dev/v1"
	Kind       = "Bundle"
)

// Limits, enforced before the YAML parser sees anything or before a value is kept.
const (
	MaxSize   = 1 << 20 // bytes of a bundle.yaml
	MaxDepth  = 16      // of lists and mappings in each other; the format itself needs 5
	MaxErrors = 20      // reported at once; more help nobody
	MaxValue  = 2048    // bytes of one value
)

// Bundle is one bundle.yaml. Everything in it is checked and every default that does not need the outside world is
// filled in.
type Bundle struct {
	APIVersion string   `yaml:"apiVersion,required"` // APIVersion
	Kind       string   `yaml:"kind,required"`       // Kind
	Metadata   Metadata `yaml:"metadata,required"`
	Spec       Spec     `yaml:"spec,required"`

	File string `yaml:"-"` // the name that Parse was given
}

// Metadata names the bundle.
type Metadata struct {
	Name    string    `yaml:"name,required"`    // robot-stack; one part of an OCI repository name
	Version string    `yaml:"version,required"` // v1.5.4
	Created time.Time `yaml:"created"`          // UTC, whole seconds; zero: the caller decides
}

// Spec is what the bundle carries.
type Spec struct {
	Source    Source     `yaml:"source"`
	Platforms []string   `yaml:"platforms"` // os/arch[/variant] of images that do not say their own; empty: all
	Images    []Image    `yaml:"images"`
	Charts    []Chart    `yaml:"charts"`
	Git       []Git      `yaml:"git"`
	Artifacts []Artifact `yaml:"artifacts"`
	Files     []File     `yaml:"files"`
	Closure   Closure    `yaml:"closure"`
}

// Source says where the bundle.yaml itself comes from; it ends in the annotations of the bundle.
type Source struct {
	URL      string `yaml:"url,required"`
	Revision string `yaml:"revision"`
}

// Image is a container image, of one platform or of many. A plain string in the list stands for its Ref.
type Image struct {
	Ref       string   `yaml:"ref,required,shorthand"` // as written: ghcr.io/acme/robot-app:v1.5.4[@sha256:…], or one on this machine: oci:PATH[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:REPOSITORY:TAG]
	As        string   `yaml:"as"`                     // as written: repository[:tag]
	Platforms []string `yaml:"platforms"`              // Spec.Platforms unless the image says its own; empty: all

	Reference  Reference       `yaml:"-"` // Ref, taken apart; zero when Local is set
	Local      origin.LocalRef `yaml:"-"` // Ref, when it names something on this machine; Bundle.Path makes a file name of its Path
	Repository string          `yaml:"-"` // under which the site serves it: ghcr.io/acme/robot-app
	Tag        string          `yaml:"-"` // under which the site serves it; empty: by digest only
	Position   Position        `yaml:"-"`
}

// Artifact is any other OCI artifact: a vulnerability database, a model, firmware. A plain string stands for its Ref.
type Artifact struct {
	Ref string `yaml:"ref,required,shorthand"` // as written: ghcr.io/acme/models/grasp:v3[@sha256:…]
	As  string `yaml:"as"`                     // as written: repository[:tag]

	Reference  Reference `yaml:"-"`
	Repository string    `yaml:"-"`
	Tag        string    `yaml:"-"`
	Position   Position  `yaml:"-"`
}

// Chart is a Helm chart: a folder or a .tgz (Path), an OCI artifact (Ref), or one of a classic chart repository
// (ChartRepository with Name and Version). Exactly one of the three is set.
type Chart struct {
	Path   string   `yaml:"path"`       // as written; Bundle.Path makes a file name of it
	Ref    string   `yaml:"ref"`        // as written: oci://ghcr.io/acme/charts/robot-app:1.2.3
	URL    string   `yaml:"repository"` // as written: https://charts.example.com
	Name   string   `yaml:"name"`       // of the chart at URL
	Semver string   `yaml:"version"`    // at URL: a version, or a constraint of which the newest is taken
	As     string   `yaml:"as"`         // as written: repository; the tag is always the chart's version
	Values []string `yaml:"values"`     // values files with which the site renders it, stacked; one with * makes one rendering for each match

	Reference  Reference `yaml:"-"` // Ref, taken apart
	Repository string    `yaml:"-"` // under which the site serves it; empty: Bundle.ChartRepository, once the chart's name is known
	Position   Position  `yaml:"-"`
}

// Git is a Git repository.
type Git struct {
	URL     string   `yaml:"url,required"` // as written: a URL, host:path, or a local path
	As      string   `yaml:"as"`           // as written: github.com/acme/robot-deployment
	Refs    []string `yaml:"refs"`         // branches and tags, short or full, with * for any text; empty: all. See gitpack.Match.
	Head    string   `yaml:"head"`         // the branch that a clone checks out, short or full; empty: what the upstream says
	Renders []Render `yaml:"renders"`      // what the site renders that no manifest in the repository says

	Local      bool     `yaml:"-"` // URL is a path on this machine; Bundle.Path makes a file name of it
	Repository string   `yaml:"-"` // under which the site serves it: github.com/acme/robot-deployment
	Position   Position `yaml:"-"`
}

// Render says that the site renders a chart in a Git repository. All paths start at the root of the repository.
type Render struct {
	Chart     string   `yaml:"chart,required"` // its folder: charts/robot-app
	Values    []string `yaml:"values"`         // as Chart.Values: robot-values/*.yaml is one rendering for each robot
	Release   string   `yaml:"release"`        // the release's name; default: the chart's
	Namespace string   `yaml:"namespace"`      // default: default
}

// Closure says what the completeness proof cannot know by itself.
type Closure struct {
	ImageFields   []string   `yaml:"imageFields"`   // fields of custom resources that name images: Robot.spec.runtime.image
	Ignore        []string   `yaml:"ignore"`        // paths in Git repositories that the site never renders; ** stands for any folders
	KubeVersion   string     `yaml:"kubeVersion"`   // of the site's clusters, for charts that ask: "1.33"
	APIVersions   []string   `yaml:"apiVersions"`   // that the site's clusters have beyond Kubernetes' own
	AllowExternal []External `yaml:"allowExternal"` // what the site gets from elsewhere
}

// External is something that the bundle does not carry on purpose.
type External struct {
	Ref    string `yaml:"ref,required"`    // an image, a chart or a Git repository as the proof's table prints it; * stands for any text
	Reason string `yaml:"reason,required"` // for the auditor; it goes into the lock

	Position Position `yaml:"-"`
}

// File is a plain file, or a folder with all that is in it.
type File struct {
	Path string `yaml:"path,required"` // as written; Bundle.Path makes a file name of it
	As   string `yaml:"as"`            // as written: repository
	Name string `yaml:"name"`          // name at the site; default: the last part of Path

	Repository string   `yaml:"-"` // under which the site serves it; the tag is Bundle.Tag
	Position   Position `yaml:"-"`
}

// Reference is an OCI reference taken apart. The names of Docker Hub are spelled as clients ask a mirror for them:
// docker.io/library/nginx.
type Reference struct {
	Repository string // ghcr.io/acme/robot-app
	Tag        string // v1.5.4, or empty
	Digest     string // sha256:…, or empty
}

// String is the reference as a registry client takes it.
func (r Reference) String() string {
	s := r.Repository
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

// Path makes a file name of a path written in the file: relative ones start at the folder of the file.
func (b *Bundle) Path(written string) string {
	if filepath.IsAbs(written) {
		return filepath.Clean(written)
	}
	return filepath.Join(filepath.Dir(b.File), written)
}

// Tag is the bundle's version as an OCI tag, in which '+' is not allowed.
func (b *Bundle) Tag() string { return strings.ReplaceAll(b.Metadata.Version, "+", "_") }

// ChartRepository is the repository under which the site serves c, whose Chart.yaml says name.
func (b *Bundle) ChartRepository(c Chart, name string) string {
	if c.Repository != "" {
		return c.Repository
	}
	return "plimsoll/" + b.Metadata.Name + "/charts/" + name
}

// Position is a place in a file, kept for errors that are found after Parse.
type Position struct {
	File   string
	Line   int    // from 1; 0 when unknown
	Column int    // in characters, from 1
	Field  string // spec.images[1].ref
}

// Errorf makes an error of a field at this place. field is the name of a field of the item, or empty.
func (p Position) Errorf(field, format string, args ...any) *Error {
	return p.Wrap(field, fmt.Errorf(format, args...))
}

// Wrap makes an error of a field at this place out of err, which errors.Is and errors.As still see.
func (p Position) Wrap(field string, err error) *Error {
	switch {
	case p.Field == "":
		p.Field = field
	case field != "":
		p.Field += "." + field
	}
	return &Error{Position: p, Reason: err.Error(), Err: err}
}

// Error is one thing that is wrong in a file.
type Error struct {
	Position
	Reason string // what is there and what is wanted instead
	Err    error  // the cause, if there is one
}

// Error reads "bundle.yaml:12:7: spec.images[1].ref: reason"; editors jump to such places.
func (e *Error) Error() string {
	var s strings.Builder
	s.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&s, ":%d:%d", e.Line, max(e.Column, 1))
	}
	s.WriteString(": ")
	if e.Field != "" {
		s.WriteString(e.Field + ": ")
	}
	s.WriteString(e.Reason)
	return s.String()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// ErrorList is everything that Parse found, in the order of the file.
type ErrorList []*Error

// Error has one line for each error.
func (l ErrorList) Error() string {
	lines := make([]string, len(l))
	for i, e := range l {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the errors one by one.
func (l ErrorList) Unwrap() []error {
	errs := make([]error, len(l))
	for i, e := range l {
		errs[i] = e
	}
	return errs
}
