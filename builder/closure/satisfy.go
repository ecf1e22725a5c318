package closure

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/plimsoll/plimsoll/bundle"
)

// imageReference is an image as a node of the cluster asks for it.
type imageReference struct {
	repository string // docker.io/library/nginx
	tag        string // latest, unless there is a digest
	digest     string
}

func (r imageReference) String() string {
	if r.digest != "" {
		return r.repository + "@" + r.digest
	}
	return r.repository + ":" + r.tag
}

// parseImage fills in what Kubernetes does: docker.io, library/, latest.
func parseImage(ref string) (imageReference, error) {
	parsed, err := name.ParseReference(ref, name.WeakValidation)
	if err != nil {
		return imageReference{}, err
	}
	r := imageReference{repository: parsed.Context().Name()}
	if rest, ok := strings.CutPrefix(r.repository, name.DefaultRegistry+"/"); ok {
		r.repository = "docker.io/" + rest
	}
	switch parsed := parsed.(type) {
	case name.Digest:
		r.digest = parsed.DigestStr()
	case name.Tag:
		r.tag = parsed.TagStr()
	}
	return r, nil
}

func (o Options) image(g *Gap) (item, suggestion string) {
	ref, err := parseImage(g.Ref)
	if err != nil {
		return "", "this is not an image reference: correct it where it stands"
	}
	var others []string
	for _, it := range o.Items {
		if it.Repository != ref.repository || it.Kind != bundle.KindImage && it.Kind != bundle.KindArtifact {
			continue
		}
		if ref.digest != "" && slices.Contains(it.Digests, ref.digest) || ref.digest == "" && slices.Contains(it.Tags, ref.tag) {
			return it.Name, ""
		}
		others = append(others, it.Name)
	}
	first, _, _ := strings.Cut(g.Ref, "/")
	if hosted := strings.Contains(g.Ref, "/") && (strings.ContainsAny(first, ".:") || first == "localhost"); hosted {
		g.Section, g.Add = "images", "- "+g.Ref
		if !strings.Contains(g.Ref, "@") {
			g.Add = "- " + ref.String()
		}
	} else {
		g.Section, g.Add = "images", "- "+ref.String()
	}
	switch {
	case len(others) > 0:
		return "", fmt.Sprintf("the bundle carries %s; add this one too, or use that one", strings.Join(others, ", "))
	case g.Add != "- "+g.Ref && ref.digest == "":
		return "", fmt.Sprintf("nodes ask for %s; add it to images, or name its registry where it stands", ref)
	}
	return "", "add it to images"
}

func (o Options) chart(g *Gap) (item, suggestion string) {
	var others []string
	for _, it := range o.Items {
		if !o.sameChart(it, g) {
			continue
		}
		if versionFits(it, g.Version) {
			return it.Name, ""
		}
		others = append(others, it.Name)
	}
	if g.Chart != "" {
		g.Section, g.Add = "charts", fmt.Sprintf("- repository: %s\n  name: %s\n  version: %q", g.Ref, g.Chart, g.Version)
	} else if g.Version != "" {
		g.Section, g.Add = "charts", fmt.Sprintf("- ref: %s:%s", g.Ref, g.Version)
	}
	if len(others) > 0 {
		return "", fmt.Sprintf("the bundle carries %s, not version %s", strings.Join(others, ", "), g.Version)
	}
	return "", "add it to charts"
}

func (o Options) sameChart(it Item, g *Gap) bool {
	if g.Chart != "" {
		return it.Kind == bundle.KindChart && it.Chart == g.Chart && sameURL(it.Source, g.Ref)
	}
	repository, ok := strings.CutPrefix(g.Ref, "oci://")
	return ok && it.Repository == repository && (it.Kind == bundle.KindChart || it.Kind == bundle.KindArtifact)
}

func sameURL(a, b string) bool {
	return strings.EqualFold(strings.TrimSuffix(a, "/"), strings.TrimSuffix(b, "/"))
}

// versionFits compares a version, a constraint, a tag or a digest with what an item is.
func versionFits(it Item, version string) bool {
	have := slices.Clone(it.Tags)
	if it.Version != "" {
		have = append(have, it.Version)
	}
	if version == "" || slices.Contains(have, version) || slices.Contains(it.Digests, version) ||
		slices.Contains(have, strings.ReplaceAll(version, "+", "_")) {
		return true
	}
	return slices.ContainsFunc(have, func(v string) bool { return inConstraint(version, strings.ReplaceAll(v, "_", "+")) })
}

func inConstraint(constraint, version string) bool {
	c, err := semver.NewConstraint(constraint)
	if err != nil {
		return false
	}
	v, err := semver.NewVersion(version)
	return err == nil && c.Check(v)
}

var commitPattern = regexp.MustCompile(`^[0-9a-f]{7,40}$`)

func (o Options) git(g *Gap) (item, suggestion string) {
	for _, it := range o.Items {
		if it.Git == nil || !SameRepository(it.Source, g.Ref) && !SameRepository("https://"+it.Repository, g.Ref) {
			continue
		}
		if o.hasRevision(it, g.Version) {
			return it.Name, ""
		}
		return "", fmt.Sprintf("the bundle carries %s without %s; add it to refs", it.Name, g.Version)
	}
	g.Section, g.Add = "git", "- url: "+g.Ref
	if g.Version != "" && g.Version != "HEAD" && !commitPattern.MatchString(g.Version) {
		g.Add += fmt.Sprintf("\n  refs: [%q]", g.Version)
	}
	return "", "add it to git"
}

func (o Options) hasRevision(it Item, revision string) bool {
	if revision == "" || revision == "HEAD" {
		return true
	}
	for _, ref := range it.Git.Refs {
		short := strings.TrimPrefix(strings.TrimPrefix(ref.Name, "refs/heads/"), "refs/tags/")
		if revision == ref.Name || "refs/"+revision == ref.Name || revision == short || revision == ref.OID || ref.Peeled != "" && revision == ref.Peeled {
			return true
		}
	}
	if commitPattern.MatchString(revision) {
		return o.Reachable != nil && o.Reachable(it.Name, revision)
	}
	return slices.ContainsFunc(it.Git.Refs, func(ref bundle.GitRef) bool {
		tag, ok := strings.CutPrefix(ref.Name, "refs/tags/")
		return ok && inConstraint(revision, tag)
	})
}
