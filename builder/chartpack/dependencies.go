package chartpack

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/opencontainers/go-digest"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
)

// maxDependencies bounds how many charts one Chart.yaml may ask for.
const maxDependencies = 256

// Options say what is done about dependencies that a chart folder does not have in charts/.
type Options struct {
	// Dependencies fetches them. If it is nil, a chart that lacks some is refused with *MissingDependenciesError.
	Dependencies Resolver
	// Pinned, if not nil, names the only charts that are taken from Dependencies: *PinError says what differs. Local
	// ones (file://) need no pin, like the chart's own files.
	Pinned []Resolved
	// Within is the folder that local dependencies must be in: if empty, the Git work tree around the chart, or without
	// one the folder that the chart is in.
	Within string
}

// Resolver finds charts in repositories. package chartrepo has one.
type Resolver interface {
	// Chart gives the chart of a repository (https://, http:// or oci://) at exactly a version, or at the newest one
	// that satisfies version as a constraint.
	Chart(ctx context.Context, repository, name, version string) (*Chart, error)
}

// Resolved is a dependency that was packed.
type Resolved struct {
	Name       string        `json:"name"`
	Version    string        `json:"version"`    // as in its Chart.yaml
	Repository string        `json:"repository"` // as in the Chart.yaml that depends on it
	Digest     digest.Digest `json:"digest"`     // of its .tgz
}

// PinError says that a dependency is not the one that is pinned.
type PinError struct {
	Name, Repository, Version string        // what is asked for; Version may be a constraint
	Want, Got                 digest.Digest // both empty when nothing is pinned
}

func (e *PinError) Error() string {
	if e.Want == "" {
		return fmt.Sprintf("%s %s of %s is not pinned", e.Name, e.Version, e.Repository)
	}
	return fmt.Sprintf("%s %s of %s is %s, pinned is %s", e.Name, e.Version, e.Repository, e.Got, e.Want)
}

// VersionError says that charts/ has a dependency in a version that Chart.yaml does not want. Helm would render it all
// the same, beside the right one.
type VersionError struct {
	Name, Have, Want string
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("charts/ has %s %s, want %s; run `helm dependency update`, or remove it", e.Name, e.Have, e.Want)
}

// vendor adds dependencies to one chart and to the local charts that it depends on.
type vendor struct {
	Options
	within   string   // Within, absolute
	above    []string // folders of the charts that are being packed, relative to within
	resolved []Resolved
}

// add gives files, sorted, with the dependencies that loaded, their chart, lacks. at is the chart's folder.
func (v *vendor) add(ctx context.Context, at string, loaded *chart.Chart, files []*loader.BufferedFile) ([]*loader.BufferedFile, error) {
	wanted := loaded.Metadata.Dependencies
	if len(wanted) > maxDependencies {
		return nil, fmt.Errorf("%d dependencies, the limit is %d", len(wanted), maxDependencies)
	}
	var locked []string // versions, in the order of wanted
	for i, d := range wanted {
		ok, err := has(loaded, d)
		if err != nil {
			return nil, fmt.Errorf("dependency %s: %w", d.Name, err)
		}
		if ok || d.Repository == "" { // without a repository it can only be in charts/; newChart says that it is not
			continue
		}
		if locked == nil {
			if locked, err = lockedVersions(loaded); err != nil {
				return nil, err
			}
		}
		c, err := v.get(ctx, at, d, locked[i])
		if err != nil {
			return nil, fmt.Errorf("dependency %s: %w", d.Name, err)
		}
		if files, err = addFile(files, c); err != nil {
			return nil, fmt.Errorf("dependency %s: %w", d.Name, err)
		}
	}
	slices.SortFunc(files, func(a, b *loader.BufferedFile) int { return cmp.Compare(a.Name, b.Name) })
	return files, nil
}

// has tells whether charts/ has the dependency, and refuses one there that no dependency asks for in its version.
func has(loaded *chart.Chart, d *chart.Dependency) (bool, error) {
	other := ""
	for _, in := range loaded.Dependencies() {
		if in.Name() != d.Name {
			continue
		}
		version := in.Metadata.Version
		if satisfies(version, d.Version) {
			return true, nil
		}
		// The same chart twice, in two versions under two aliases, is allowed.
		wanted := slices.ContainsFunc(loaded.Metadata.Dependencies, func(e *chart.Dependency) bool {
			return e.Name == d.Name && satisfies(version, e.Version)
		})
		if !wanted && version > other { // the greatest: the loader's order is that of a map
			other = version
		}
	}
	if other != "" {
		return false, &VersionError{Name: d.Name, Have: other, Want: d.Version}
	}
	return false, nil
}

// satisfies is how Helm compares a version with what Chart.yaml says, which may be a constraint.
func satisfies(version, wanted string) bool {
	if version == wanted || wanted == "" {
		return true
	}
	parsed, err := semver.NewVersion(version)
	if err != nil {
		return false
	}
	constraint, err := semver.NewConstraint(wanted)
	return err == nil && constraint.Check(parsed)
}

func (v *vendor) get(ctx context.Context, at string, d *chart.Dependency, version string) (*Chart, error) {
	if _, err := semver.NewConstraint(version); err != nil && version != "" {
		return nil, fmt.Errorf("version %q: %w", version, err)
	}
	var c *Chart
	var err error
	scheme, rest, _ := strings.Cut(d.Repository, "://")
	switch {
	case scheme == "file":
		c, err = v.local(ctx, at, rest)
	case slices.Contains([]string{"https", "http", "oci"}, scheme):
		c, err = v.remote(ctx, d, version)
	case strings.HasPrefix(d.Repository, "@"), strings.HasPrefix(d.Repository, "alias:"):
		return nil, fmt.Errorf("repository %q is a name that only one machine's Helm configuration knows, want its URL", d.Repository)
	default:
		return nil, fmt.Errorf("repository %q, want https://…, http://…, oci://… or file://…", d.Repository)
	}
	if err != nil {
		return nil, err
	}
	if c.Name != d.Name {
		return nil, fmt.Errorf("%s has the chart %s there", d.Repository, c.Name)
	}
	if !satisfies(c.Version, version) {
		return nil, fmt.Errorf("%s has version %s there, want %s", d.Repository, c.Version, version)
	}
	v.resolved = append(v.resolved, Resolved{
		Name: c.Name, Version: c.Version, Repository: d.Repository, Digest: digest.FromBytes(c.Archive),
	})
	return c, nil
}

func (v *vendor) remote(ctx context.Context, d *chart.Dependency, version string) (*Chart, error) {
	if v.Pinned == nil {
		return v.Dependencies.Chart(ctx, d.Repository, d.Name, version)
	}
	pin, ok := v.pin(d, version)
	if !ok {
		return nil, &PinError{Name: d.Name, Repository: d.Repository, Version: version}
	}
	c, err := v.Dependencies.Chart(ctx, d.Repository, d.Name, pin.Version)
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(c.Archive); got != pin.Digest {
		return nil, &PinError{Name: d.Name, Repository: d.Repository, Version: pin.Version, Want: pin.Digest, Got: got}
	}
	return c, nil
}

// pin finds the newest pinned version that fits. A local dependency may ask for the same chart in another version; as
// both were resolved to the newest, the newest that fits is the right one.
func (v *vendor) pin(d *chart.Dependency, version string) (pin Resolved, ok bool) {
	var newest *semver.Version
	for _, p := range v.Pinned {
		if p.Name != d.Name || p.Repository != d.Repository || !satisfies(p.Version, version) {
			continue
		}
		parsed, err := semver.NewVersion(p.Version)
		if err != nil {
			continue
		}
		if newest == nil || parsed.GreaterThan(newest) {
			pin, newest = p, parsed
		}
	}
	return pin, newest != nil
}

// addFile puts the .tgz of a dependency where `helm dependency build` does.
func addFile(files []*loader.BufferedFile, c *Chart) ([]*loader.BufferedFile, error) {
	if len(c.Archive) > MaxFile {
		return nil, fmt.Errorf("its .tgz has %d bytes, Helm reads files of a chart up to %d", len(c.Archive), MaxFile)
	}
	name := "charts/" + c.Name + "-" + c.Version + ".tgz"
	for _, f := range files {
		if f.Name != name {
			continue
		}
		if string(f.Data) != string(c.Archive) {
			return nil, fmt.Errorf("%s is there already, with different bytes", name)
		}
		return files, nil // the same chart under two aliases
	}
	return append(files, &loader.BufferedFile{Name: name, Data: c.Archive}), nil
}
