package spec

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/plimsoll/plimsoll/bundle"
)

var (
	namePattern    = regexp.MustCompile(`^[a-z0-9]+([._-][a-z0-9]+)*$`) // one part of an OCI repository name
	versionPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}$`)
)

const maxBundleName = 64 // bytes; leaves room for the rest of a repository name

// validate checks the values of fields that were read. Fields that are missing or of the wrong type were reported
// already and are skipped, so that one mistake is one error.
func (p *parser) validate(b *Bundle) {
	p.want("apiVersion", b.APIVersion, APIVersion)
	p.want("kind", b.Kind, Kind)
	m := &b.Metadata
	if m.Name != "" && (len(m.Name) > maxBundleName || !namePattern.MatchString(m.Name)) {
		p.bad("metadata.name", "%q, want at most %d lower-case letters and digits, with single '.', '_' or '-' between them", m.Name, maxBundleName)
		m.Name = "" // no default is made of it
	}
	if m.Version != "" && !versionPattern.MatchString(m.Version) {
		p.bad("metadata.version", "%q, want at most 128 letters, digits, '.', '_', '+' and '-', as in v1.5.4", m.Version)
		m.Version = ""
	}
	s := &b.Spec
	if s.Source.URL != "" {
		p.source(&s.Source)
	}
	p.platforms("spec.platforms", s.Platforms)
	served := make(map[string]string) // place → field
	for i := range s.Images {
		p.image(fmt.Sprintf("spec.images[%d]", i), s, &s.Images[i], served)
	}
	for i := range s.Charts {
		p.chart(fmt.Sprintf("spec.charts[%d]", i), &s.Charts[i], served)
	}
	for i := range s.Git {
		p.git(fmt.Sprintf("spec.git[%d]", i), &s.Git[i], served)
	}
	for i := range s.Files {
		p.plainFile(fmt.Sprintf("spec.files[%d]", i), b, &s.Files[i], served)
	}
	items := len(s.Images) + len(s.Charts) + len(s.Git) + len(s.Files)
	if at, ok := p.positions["spec"]; ok && len(p.errs) == 0 && items == 0 {
		p.fail(at, "nothing to carry, want images, charts, git or files")
	} else if items >= bundle.MaxItems {
		p.fail(at, fmt.Sprintf("%d items, the limit is %d", items, bundle.MaxItems-1))
	}
}

// bad reports a value at its place.
func (p *parser) bad(field, format string, args ...any) {
	at, ok := p.positions[field]
	if !ok {
		at = Position{File: p.file, Field: field}
	}
	p.fail(at, fmt.Sprintf(format, args...))
}

func (p *parser) want(field, have, want string) {
	if have != "" && have != want {
		p.bad(field, "%q, want %q", have, want)
	}
}

// serve claims a place at the site for the field. Two items in one place would make the site serve one of them at random.
func (p *parser) serve(served map[string]string, place, field string) {
	if other, taken := served[place]; taken {
		p.bad(field, "%s is already taken by %s in line %d, want another place: see as", place, other, p.positions[other].Line)
		return
	}
	served[place] = field
}

func (p *parser) source(s *Source) {
	if _, err := parseGitURL(s.URL); err != nil {
		p.bad("spec.source.url", "%v", err)
	}
	if !printable(s.Revision) {
		p.bad("spec.source.revision", "%q, want one line of text", s.Revision)
	}
}

func (p *parser) platforms(field string, list []string) {
	for i, platform := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		if platform == "" {
			continue
		}
		if err := checkPlatform(platform); err != nil {
			p.bad(at, "%v", err)
		} else if first := slices.Index(list, platform); first < i {
			p.bad(at, "%q is written twice, want it once: the first is in line %d", platform, p.positions[fmt.Sprintf("%s[%d]", field, first)].Line)
		}
	}
}

func (p *parser) image(field string, s *Spec, image *Image, served map[string]string) {
	image.Position = p.positions[field]
	if len(image.Platforms) == 0 {
		image.Platforms = slices.Clone(s.Platforms)
	} else {
		p.platforms(field+".platforms", image.Platforms)
	}
	if image.Ref == "" {
		return
	}
	ref, err := parseReference(image.Ref)
	if err != nil {
		p.bad(field+".ref", "%v", err)
		return
	}
	image.Reference, image.Repository, image.Tag = ref, ref.Repository, ref.Tag
	at := field + ".ref"
	if image.As != "" {
		at = field + ".as"
		repository, tag := splitTag(image.As)
		if err := checkServed(repository, tag); err != nil {
			p.bad(at, "%q: %v, want repository[:tag] as in ghcr.io/acme/robot-app:v1.5.4", image.As, err)
			return
		}
		image.Repository = repository
		if tag != "" {
			image.Tag = tag
		}
	}
	place := image.Repository + ":" + image.Tag
	if image.Tag == "" {
		place = image.Repository + "@" + ref.Digest
	}
	p.serve(served, place, at)
}

func (p *parser) chart(field string, c *Chart, served map[string]string) {
	c.Position = p.positions[field]
	_, isMapping := p.positions[field]
	switch {
	case c.Path != "" && c.Ref != "":
		p.bad(field+".ref", "next to path, want exactly one of path and ref")
		return
	case c.Path == "" && c.Ref == "":
		_, hasPath := p.positions[field+".path"]
		_, hasRef := p.positions[field+".ref"]
		if isMapping && !hasPath && !hasRef && !p.reported(field) {
			p.bad(field, "neither path nor ref, want exactly one of them")
		}
		return
	}
	at := field + ".as"
	if c.Path != "" {
		if err := checkPath(c.Path); err != nil {
			p.bad(field+".path", "%v", err)
		}
	} else {
		ref, err := parseChartReference(c.Ref)
		if err != nil {
			p.bad(field+".ref", "%v", err)
			return
		}
		c.Reference, c.Repository = ref, ref.Repository
		if c.As == "" {
			at = field + ".ref"
		}
	}
	if c.As != "" {
		repository, tag := splitTag(c.As)
		if err := checkServed(repository, ""); err != nil || tag != "" || strings.HasSuffix(c.As, ":") {
			p.bad(at, "%q, want a repository as in ghcr.io/acme/charts/robot-app: the tag is the chart's version", c.As)
			return
		}
		c.Repository = repository
	}
	// The version of a chart from a folder is not known here; the builder finds those that collide.
	if c.Reference.Tag != "" {
		p.serve(served, c.Repository+":"+c.Reference.Tag, at)
	}
}

// reported says whether something was already found wrong with a field itself.
func (p *parser) reported(field string) bool {
	return slices.ContainsFunc(p.errs, func(e *Error) bool {
		return e.Field == field || strings.HasPrefix(e.Field, field+".")
	})
}

func (p *parser) git(field string, g *Git, served map[string]string) {
	g.Position = p.positions[field]
	if g.URL == "" {
		return
	}
	url, err := parseGitURL(g.URL)
	if err != nil {
		p.bad(field+".url", "%v", err)
		return
	}
	g.Local, g.Repository = url.local, url.place
	at := field + ".url"
	if g.As != "" {
		at, g.Repository = field+".as", strings.TrimSuffix(g.As, ".git")
	} else if g.Local {
		p.bad(at, "%q is on this machine, want as: where the site serves it, as in github.com/acme/robot-deployment", g.URL)
		return
	}
	if err := bundle.CheckGitPath(g.Repository); err != nil {
		p.bad(at, "%q, want a place to serve it as in github.com/acme/robot-deployment", g.Repository)
		return
	}
	p.serve(served, g.Repository, at)
	p.refs(field, g)
}

func (p *parser) refs(field string, g *Git) {
	wellFormed := true
	for i, ref := range g.Refs {
		at := fmt.Sprintf("%s.refs[%d]", field, i)
		if ref == "" {
			continue
		}
		if err := checkRefPattern(ref); err != nil {
			p.bad(at, "%v", err)
			wellFormed = false
		} else if first := slices.Index(g.Refs, ref); first < i {
			p.bad(at, "%q is written twice, want it once: the first is in line %d", ref, p.positions[fmt.Sprintf("%s.refs[%d]", field, first)].Line)
		}
	}
	if g.Head == "" {
		return
	}
	head := "refs/heads/" + strings.TrimPrefix(g.Head, "refs/heads/")
	if strings.HasPrefix(g.Head, "-") || strings.HasPrefix(g.Head, "refs/") && head != g.Head || bundle.CheckGitRef(head) != nil {
		p.bad(field+".head", "%q, want the name of a branch", g.Head)
	} else if wellFormed && !g.Wants(head) {
		p.bad(field+".head", "%q is not among refs, want a branch that is carried: %s", g.Head, strings.Join(g.Refs, ", "))
	}
}

func (p *parser) plainFile(field string, b *Bundle, f *File, served map[string]string) {
	f.Position = p.positions[field]
	if f.Path == "" {
		return
	}
	if err := checkPath(f.Path); err != nil {
		p.bad(field+".path", "%v", err)
		return
	}
	at := field + ".name"
	if f.Name == "" {
		at, f.Name = field+".path", filepath.Base(f.Path)
	}
	if f.Name == "." || f.Name == ".." || strings.ContainsAny(f.Name, `/\`) || !printable(f.Name) || len(f.Name) > bundle.MaxName {
		p.bad(at, "%q, want a file name without folders", f.Name)
		return
	}
	switch {
	case f.As != "":
		at = field + ".as"
		repository, tag := splitTag(f.As)
		if err := checkServed(repository, ""); err != nil || tag != "" || strings.HasSuffix(f.As, ":") {
			p.bad(at, "%q, want a repository as in acme/site-notes: the tag is the bundle's version", f.As)
			return
		}
		f.Repository = repository
	case b.Metadata.Name == "":
		return // reported; there is no default without it
	default:
		name := strings.ToLower(f.Name)
		f.Repository = "plimsoll/" + b.Metadata.Name + "/files/" + name
		if bundle.CheckRepository(f.Repository) != nil {
			p.bad(at, "%q cannot stand in the name of an OCI repository, want as: as in acme/site-notes", f.Name)
			return
		}
	}
	p.serve(served, f.Repository+":"+b.Tag(), at)
}
