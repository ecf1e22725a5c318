package spec

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/plimsoll/plimsoll/builder/origin"
	"github.com/plimsoll/plimsoll/bundle"
)

var (
	namePattern    = regexp.MustCompile(`^[a-z0-9]+([._-][a-z0-9]+)*$`) // one part of an OCI repository name
	versionPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}$`)

	chartNamePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	labelPattern     = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
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
	for i := range s.Artifacts {
		p.artifact(fmt.Sprintf("spec.artifacts[%d]", i), &s.Artifacts[i], served)
	}
	for i := range s.Files {
		p.plainFile(fmt.Sprintf("spec.files[%d]", i), b, &s.Files[i], served)
	}
	p.closure(&s.Closure)
	items := len(s.Images) + len(s.Charts) + len(s.Git) + len(s.Artifacts) + len(s.Files)
	if at, ok := p.positions["spec"]; ok && len(p.errs) == 0 && items == 0 {
		p.fail(at, "nothing to carry, want images, charts, git, artifacts or files")
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
	if origin.IsLocal(image.Ref) {
		local, err := origin.ParseLocal(image.Ref)
		if err != nil {
			p.bad(field+".ref", "%v", err)
			return
		}
		image.Local = local
		p.localImage(field, image, served)
		return
	}
	image.Reference, image.Repository, image.Tag = p.remote(field, image.Ref, image.As, served)
}

// localImage is an image of this machine: nothing but as says what it is called.
func (p *parser) localImage(field string, image *Image, served map[string]string) {
	repository, tag := splitTag(image.As)
	if err := checkServed(repository, tag); err != nil || tag == "" {
		at := field + ".as"
		if image.As == "" {
			at = field + ".ref"
		}
		p.bad(at, "%q is on this machine, want as: where the site serves it, as in ghcr.io/acme/robot-app:v1.5.4", image.Ref)
		return
	}
	image.Repository, image.Tag = repository, tag
	p.serve(served, repository+":"+tag, field+".as")
}

// remote takes a reference apart and says where the site serves it: under its own name, or under as.
func (p *parser) remote(field, written, as string, served map[string]string) (ref Reference, repository, tag string) {
	ref, err := parseReference(written)
	if err != nil {
		p.bad(field+".ref", "%v", err)
		return Reference{}, "", ""
	}
	repository, tag = ref.Repository, ref.Tag
	at := field + ".ref"
	if as != "" {
		at = field + ".as"
		asRepository, asTag := splitTag(as)
		if err := checkServed(asRepository, asTag); err != nil {
			p.bad(at, "%q: %v, want repository[:tag] as in ghcr.io/acme/robot-app:v1.5.4", as, err)
			return ref, "", ""
		}
		repository = asRepository
		if asTag != "" {
			tag = asTag
		}
	}
	place := repository + ":" + tag
	if tag == "" {
		place = repository + "@" + ref.Digest
	}
	p.serve(served, place, at)
	return ref, repository, tag
}

func (p *parser) artifact(field string, a *Artifact, served map[string]string) {
	a.Position = p.positions[field]
	if a.Ref != "" {
		a.Reference, a.Repository, a.Tag = p.remote(field, a.Ref, a.As, served)
	}
}

func (p *parser) chart(field string, c *Chart, served map[string]string) {
	c.Position = p.positions[field]
	at := field + ".as"
	switch p.oneOf(field, "path", "ref", "repository") {
	case "path":
		if err := checkPath(c.Path); err != nil {
			p.bad(field+".path", "%v", err)
		}
	case "ref":
		if c.Ref == "" {
			return
		}
		ref, err := parseChartReference(c.Ref)
		if err != nil {
			p.bad(field+".ref", "%v", err)
			return
		}
		c.Reference, c.Repository = ref, ref.Repository
		if c.As == "" {
			at = field + ".ref"
		}
	case "repository":
		if !p.classicChart(field, c) {
			return
		}
	default:
		return
	}
	for _, other := range []string{"name", "version"} {
		if _, ok := p.positions[field+"."+other]; ok && c.URL == "" {
			p.bad(field+"."+other, "without repository, want it only next to the URL of a chart repository")
		}
	}
	for i, name := range c.Values {
		if err := checkPath(name); err != nil {
			p.bad(fmt.Sprintf("%s.values[%d]", field, i), "%v", err)
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

// oneOf gives the only field of names that is written, and reports when there is none or more than one.
func (p *parser) oneOf(field string, names ...string) string {
	var written []string
	for _, name := range names {
		if _, ok := p.positions[field+"."+name]; ok {
			written = append(written, name)
		}
	}
	want := fmt.Sprintf("want exactly one of %s and %s", strings.Join(names[:len(names)-1], ", "), names[len(names)-1])
	switch {
	case len(written) > 1:
		p.bad(field+"."+written[1], "next to %s, %s", written[0], want)
		return ""
	case len(written) == 0:
		if _, isMapping := p.positions[field]; isMapping && !p.reported(field) {
			p.bad(field, "none of %s, %s", strings.Join(names, ", "), want)
		}
		return ""
	}
	return written[0]
}

func (p *parser) classicChart(field string, c *Chart) bool {
	if c.URL == "" {
		return false
	}
	repository, err := parseChartURL(c.URL)
	switch {
	case err != nil:
		p.bad(field+".repository", "%v", err)
		return false
	case c.Name == "" || c.Semver == "":
		if !p.reported(field) {
			p.bad(field, "repository without name and version, want all three")
		}
		return false
	case !chartNamePattern.MatchString(c.Name):
		p.bad(field+".name", "%q, want the name of a chart", c.Name)
		return false
	}
	if _, err := semver.NewConstraint(c.Semver); err != nil {
		p.bad(field+".version", "%q, want a version or a constraint as in 15.3.1 or ~15.3", c.Semver)
		return false
	}
	c.Repository = repository + "/" + c.Name
	if err := bundle.CheckRepository(c.Repository); err != nil && c.As == "" {
		p.bad(field+".repository", "%q cannot stand in the name of an OCI repository, want as:, as in charts/%s", c.URL, c.Name)
		return false
	}
	return true
}

// paths checks paths that start at the root of a repository.
func (p *parser) paths(field string, list []string) {
	for i, name := range list {
		if err := checkInside(name); name != "" && err != nil {
			p.bad(fmt.Sprintf("%s[%d]", field, i), "%v", err)
		}
	}
}

func (p *parser) closure(c *Closure) {
	p.paths("spec.closure.ignore", c.Ignore)
	if _, err := semver.NewVersion(c.KubeVersion); c.KubeVersion != "" && err != nil {
		p.bad("spec.closure.kubeVersion", "%q, want a version as in \"1.33\"", c.KubeVersion)
	}
	for i := range c.AllowExternal {
		field := fmt.Sprintf("spec.closure.allowExternal[%d]", i)
		c.AllowExternal[i].Position = p.positions[field]
		if ref := c.AllowExternal[i].Ref; !printable(ref) || strings.Trim(ref, "*/:. ") == "" && ref != "" {
			p.bad(field+".ref", "%q, want a reference: what is allowed must be named", ref)
		}
		if reason := c.AllowExternal[i].Reason; !printable(reason) {
			p.bad(field+".reason", "%q, want one line of text", reason)
		}
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
	for i, r := range g.Renders {
		at := fmt.Sprintf("%s.renders[%d]", field, i)
		if err := checkInside(r.Chart); r.Chart != "" && err != nil {
			p.bad(at+".chart", "%v", err)
		}
		p.paths(at+".values", r.Values)
		for name, value := range map[string]string{"release": r.Release, "namespace": r.Namespace} {
			if value != "" && !labelPattern.MatchString(value) {
				p.bad(at+"."+name, "%q, want a DNS label of Kubernetes (RFC 1123)", value)
			}
		}
	}
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
