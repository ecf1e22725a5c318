package bundle

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// LockVersion is the value of Lock.APIVersion that this package reads and writes.
const LockVersion = "plimsoll.lock.v1"

// Lock names every item of a bundle by digest and says how a site serves it. Its JSON is canonical: ParseLock accepts
// exactly the bytes that Encode gives.
type Lock struct {
	APIVersion string        `json:"apiVersion"`        // LockVersion
	Name       string        `json:"name"`              // the bundle's name, for example robot-stack
	Version    string        `json:"version"`           // the bundle's version, for example v1.5.4
	Created    string        `json:"created"`           // RFC 3339, UTC, whole seconds; from the source, never the wall clock
	Builder    Tool          `json:"builder"`           // what made the bundle
	Spec       digest.Digest `json:"spec"`              // of the bundle.yaml, which is a layer of the lock artifact
	SBOM       bool          `json:"sbom,omitempty"`    // whether the build described images that brought no SBOM
	Bytes      int64         `json:"bytes"`             // of all items, each digest counted once
	Items      []Item        `json:"items"`             // in the order of the index
	Closure    *Closure      `json:"closure,omitempty"` // the completeness proof; absent when it was not made
}

// Tool is a program and its version.
type Tool struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Kind says what an item is.
type Kind string

// The kinds of items. A referrer is anything that refers to another item: a signature, an attestation, an SBOM.
const (
	KindImage    Kind = "image"
	KindChart    Kind = "chart"
	KindGit      Kind = "git"
	KindArtifact Kind = "artifact" // any other OCI artifact: a vulnerability database, a model, firmware
	KindFile     Kind = "file"
	KindReferrer Kind = "referrer"
)

// Item is one thing that the bundle carries.
type Item struct {
	Name       string             `json:"name"`                 // unique in the bundle; the index's AnnotationItem
	Kind       Kind               `json:"kind"`                 //
	Source     string             `json:"source,omitempty"`     // the reference as it was written in bundle.yaml
	Descriptor ocispec.Descriptor `json:"descriptor"`           // media type, digest and size only
	Bytes      int64              `json:"bytes"`                // of the item with all that hangs off it, each digest counted once
	Repository string             `json:"repository,omitempty"` // where the site serves it: ghcr.io/acme/robot-app, github.com/acme/robot-deployment
	Tags       []string           `json:"tags,omitempty"`       // the OCI tags it is served under
	Platforms  []Platform         `json:"platforms,omitempty"`  // of an image: the manifests that the bundle carries; of an index: its entries in the bundle index
	Sparse     bool               `json:"sparse,omitempty"`     // of an index: it names manifests that the bundle does not carry
	Vendored   []Dependency       `json:"vendored,omitempty"`   // of a chart packed from a folder: the dependencies that the build fetched into it
	Git        *Git               `json:"git,omitempty"`        //
	File       *File              `json:"file,omitempty"`       //
	Subject    digest.Digest      `json:"subject,omitempty"`    // of a referrer: the manifest it speaks of
}

// Platform is one carried manifest of an image index.
type Platform struct {
	Platform string        `json:"platform"` // os/arch[/variant], or "unknown" when the index does not say
	Digest   digest.Digest `json:"digest"`
}

// Dependency is a chart that was fetched into another one.
type Dependency struct {
	Name       string        `json:"name"`
	Version    string        `json:"version"`
	Repository string        `json:"repository"` // as in Chart.yaml: https://…, oci://…, file://…
	Digest     digest.Digest `json:"digest"`     // of its .tgz
}

// Git is what the site's mirror shows of a repository.
type Git struct {
	Head    string   `json:"head"`    // the symbolic HEAD: refs/heads/main
	Refs    []GitRef `json:"refs"`    // sorted by name
	Version string   `json:"version"` // of the git that packed it
}

// GitRef is a full ref name and the object it points to.
type GitRef struct {
	Name   string `json:"name"`             // refs/heads/… or refs/tags/…
	OID    string `json:"oid"`              // 40 or 64 lower-case hex digits
	Peeled string `json:"peeled,omitempty"` // of an annotated tag: the object it leads to
}

// File is a plain file, or a folder as a gzipped tar.
type File struct {
	Path   string `json:"path"`             // relative, slash-separated
	Mode   uint32 `json:"mode"`             // permission bits
	Folder bool   `json:"folder,omitempty"` //
}

// Encode gives the canonical bytes.
func (l *Lock) Encode() ([]byte, error) {
	if err := l.Validate(); err != nil {
		return nil, err
	}
	return strictjson.Marshal(l)
}

// ParseLock reads canonical lock bytes and checks them.
func ParseLock(data []byte) (*Lock, error) {
	if len(data) > MaxLock {
		return nil, fmt.Errorf("lock: %d bytes, the limit is %d", len(data), MaxLock)
	}
	var l Lock
	if err := strictjson.UnmarshalCanonical(data, &l); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := l.Validate(); err != nil {
		return nil, err
	}
	return &l, nil
}

// Item finds an item by name.
func (l *Lock) Item(name string) (Item, bool) {
	for _, it := range l.Items {
		if it.Name == name {
			return it, true
		}
	}
	return Item{}, false
}

var (
	namePattern    = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$`)
	versionPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}$`)
	tagPattern     = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`) // OCI distribution-spec 1.1, <reference> as a tag
	// OCI distribution-spec 1.1 <name>, behind an optional host with a port.
	repositoryPattern = regexp.MustCompile(`^([a-zA-Z0-9.-]+(:[0-9]{1,5})?/)?[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	gitPathPattern    = regexp.MustCompile(`^[A-Za-z0-9._-]+(:[0-9]{1,5})?(/[A-Za-z0-9_~.-]+)+$`)
	oidPattern        = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	itemPattern       = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$`)
)

// Validate reports the first rule of FORMAT.md that the lock breaks.
func (l *Lock) Validate() error {
	switch {
	case l.APIVersion != LockVersion:
		return fmt.Errorf("lock: apiVersion %q, this version reads %q", l.APIVersion, LockVersion)
	case len(l.Name) > MaxName || !namePattern.MatchString(l.Name):
		return fmt.Errorf("lock: name %q: want lower-case letters, digits, '.', '_' and '-'", l.Name)
	case !versionPattern.MatchString(l.Version):
		return fmt.Errorf("lock: version %q: want letters, digits, '.', '_', '+' and '-'", l.Version)
	case len(l.Items) == 0:
		return errors.New("lock: no items")
	case len(l.Items) > MaxItems:
		return fmt.Errorf("lock: %d items, the limit is %d", len(l.Items), MaxItems)
	}
	if t, err := time.Parse(time.RFC3339, l.Created); err != nil || t.UTC().Format(time.RFC3339) != l.Created {
		return fmt.Errorf("lock: created %q: want RFC 3339 in UTC with whole seconds", l.Created)
	}
	if err := l.Spec.Validate(); err != nil {
		return fmt.Errorf("lock: spec digest %q: %w", l.Spec, err)
	}
	if err := l.validateItems(); err != nil {
		return err
	}
	return l.Closure.validate(l)
}

func (l *Lock) validateItems() error {
	names := make(map[string]struct{}, len(l.Items))
	served := make(map[string]string, len(l.Items))
	for _, it := range l.Items {
		if err := it.validate(); err != nil {
			return fmt.Errorf("lock: item %q: %w", it.Name, err)
		}
		if _, dup := names[it.Name]; dup {
			return fmt.Errorf("lock: item %q: the name is used twice", it.Name)
		}
		names[it.Name] = struct{}{}
		for _, place := range it.places() {
			if other, dup := served[place]; dup {
				return fmt.Errorf("lock: item %q: %s is already served by item %q", it.Name, place, other)
			}
			served[place] = it.Name
		}
	}
	return nil
}

// places are the names that must be unique in what a site serves.
func (it Item) places() []string {
	if it.Kind == KindGit {
		return []string{"git " + it.Repository}
	}
	places := make([]string, 0, len(it.Tags))
	for _, tag := range it.Tags {
		places = append(places, it.Repository+":"+tag)
	}
	return places
}

func (it Item) validate() error {
	if len(it.Name) > MaxName || !itemPattern.MatchString(it.Name) {
		return errors.New("not a valid item name")
	}
	d := it.Descriptor
	if err := CheckDescriptor(d); err != nil {
		return err
	}
	if d.Annotations != nil || d.URLs != nil || d.Data != nil || d.Platform != nil || d.ArtifactType != "" {
		return errors.New("descriptor: only mediaType, digest and size are allowed")
	}
	if it.Bytes < 0 {
		return fmt.Errorf("%d bytes", it.Bytes)
	}
	for i, tag := range it.Tags {
		if !tagPattern.MatchString(tag) {
			return fmt.Errorf("tag %q is not an OCI tag", tag)
		}
		if i > 0 && it.Tags[i-1] >= tag {
			return fmt.Errorf("tags are not sorted at %q", tag)
		}
	}
	switch it.Kind {
	case KindImage, KindChart, KindArtifact, KindFile:
		if err := CheckRepository(it.Repository); err != nil {
			return err
		}
	case KindReferrer:
		if err := CheckRepository(it.Repository); err != nil {
			return err
		}
		if err := it.Subject.Validate(); err != nil {
			return fmt.Errorf("subject %q: %w", it.Subject, err)
		}
	case KindGit:
		return it.validateGit()
	default:
		return fmt.Errorf("unknown kind %q", it.Kind)
	}
	if it.Vendored != nil && it.Kind != KindChart {
		return fmt.Errorf("fields do not fit kind %q", it.Kind)
	}
	for _, d := range it.Vendored {
		if d.Name == "" || d.Version == "" || d.Digest.Validate() != nil {
			return fmt.Errorf("dependency %q %q %q: want name, version and digest", d.Name, d.Version, d.Digest)
		}
	}
	for _, p := range it.Platforms {
		if err := p.Digest.Validate(); err != nil {
			return fmt.Errorf("platform %s: %w", p.Platform, err)
		}
	}
	if it.Sparse && !IsIndex(it.Descriptor.MediaType) {
		return errors.New("only an index can be sparse")
	}
	if (it.Kind == KindFile) != (it.File != nil) || it.Git != nil {
		return fmt.Errorf("fields do not fit kind %q", it.Kind)
	}
	if it.File != nil {
		return it.File.validate()
	}
	return nil
}

// CheckRepository reports whether name is an OCI repository name, with or without a host.
func CheckRepository(name string) error {
	if len(name) > MaxName || !repositoryPattern.MatchString(name) {
		return fmt.Errorf("repository %q is not an OCI repository name", name)
	}
	return nil
}

func (f *File) validate() error {
	if f.Path == "" || len(f.Path) > MaxPath || path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path ||
		f.Path == ".." || strings.HasPrefix(f.Path, "../") || strings.ContainsAny(f.Path, "\\\x00") {
		return fmt.Errorf("file path %q: want a clean relative path", f.Path)
	}
	if f.Mode&^0o777 != 0 {
		return fmt.Errorf("file mode %o: only permission bits are allowed", f.Mode)
	}
	return nil
}

// CheckGitPath reports whether p is a place under which a mirror can serve a Git repository: host/path.
func CheckGitPath(p string) error {
	if len(p) > MaxPath || !gitPathPattern.MatchString(p) || strings.HasSuffix(p, ".git") {
		return fmt.Errorf("git repository %q: want host/path without .git", p)
	}
	for _, part := range strings.Split(p, "/") {
		if strings.HasPrefix(part, ".") || strings.HasPrefix(part, "-") || strings.HasSuffix(part, ".lock") {
			return fmt.Errorf("git repository %q: %q is not allowed as a part of the path", p, part)
		}
	}
	return nil
}

func (it Item) validateGit() error {
	g := it.Git
	if g == nil || it.File != nil || it.Platforms != nil || it.Tags != nil {
		return fmt.Errorf("fields do not fit kind %q", it.Kind)
	}
	if err := CheckGitPath(it.Repository); err != nil {
		return err
	}
	if err := CheckGitRef(g.Head); err != nil {
		return fmt.Errorf("HEAD: %w", err)
	}
	return CheckGitRefs(g.Refs)
}

// CheckGitRefs wants 1 to MaxGitRefs branches and tags, sorted by name.
func CheckGitRefs(refs []GitRef) error {
	if len(refs) == 0 || len(refs) > MaxGitRefs {
		return fmt.Errorf("%d git refs: want 1 to %d", len(refs), MaxGitRefs)
	}
	for i, ref := range refs {
		if err := CheckGitRef(ref.Name); err != nil {
			return err
		}
		if !oidPattern.MatchString(ref.OID) || ref.Peeled != "" && !oidPattern.MatchString(ref.Peeled) {
			return fmt.Errorf("git ref %s: %q is not an object id", ref.Name, ref.OID+ref.Peeled)
		}
		if i > 0 && refs[i-1].Name >= ref.Name {
			return fmt.Errorf("git refs are not sorted at %s", ref.Name)
		}
	}
	return nil
}

// CheckGitRef applies the rules of git-check-ref-format(1) to a full branch or tag name.
func CheckGitRef(name string) error {
	bad := fmt.Errorf("git ref %q is not allowed", name)
	if len(name) > MaxName || !strings.HasPrefix(name, "refs/heads/") && !strings.HasPrefix(name, "refs/tags/") {
		return bad
	}
	if strings.Contains(name, "..") || strings.Contains(name, "@{") || strings.HasSuffix(name, ".") ||
		strings.ContainsAny(name, " ~^:?*[\\\x7f") {
		return bad
	}
	for _, r := range name {
		if r < 0x20 {
			return bad
		}
	}
	for _, part := range strings.Split(name, "/") {
		if part == "" || strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".lock") {
			return bad
		}
	}
	return nil
}
