package relay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/mod/semver"

	"github.com/plimsoll/plimsoll/internal/durable"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// activeVersion is Active.APIVersion.
const activeVersion = "plimsoll.active.v1"

// activeFile is the commit point, below the data folder.
const activeFile = "active.json"

// maxPrevious bounds how many releases back a roll-back can go.
const maxPrevious = 64

// Active is the relay's one mutable fact: which releases it serves. Everything else that it serves is computed from
// this and from the store.
type Active struct {
	APIVersion string   `json:"apiVersion"`
	Generation uint64   `json:"generation"` // rises by one with each activation and roll-back
	Streams    []Stream `json:"streams"`    // sorted by name
}

// Stream is the sequence of releases of one bundle name, of which one is active.
type Stream struct {
	Name     string    `json:"name"`
	Release  Release   `json:"release"`            // what is served
	Previous []Release `json:"previous,omitempty"` // what was served before, the latest first; kept, and pullable by digest
	Accepted Release   `json:"accepted"`           // the newest ever accepted: older ones come back by roll-back only
}

// Release names one accepted bundle.
type Release struct {
	Version string             `json:"version"`
	Bundle  ocispec.Descriptor `json:"bundle"` // of the index: media type, digest and size only
}

// OlderError says that a bundle was refused because a newer one, or another one of the same version, was accepted.
type OlderError struct {
	Name          string
	Have, Offered string        // versions
	Digest        digest.Digest // offered
}

func (e *OlderError) Error() string {
	if e.Have == e.Offered {
		return fmt.Sprintf("release %s %s: this version was already accepted with other content than %s", e.Name, e.Offered, e.Digest)
	}
	return fmt.Sprintf("release %s %s is older than %s, which was already accepted", e.Name, e.Offered, e.Have)
}

// NoReleaseError says that a named release is not here to be served.
type NoReleaseError struct {
	Name    string
	Wanted  string   // version or digest; empty for "the one before"
	Present []string // versions that a roll-back can name, the latest first
}

func (e *NoReleaseError) Error() string {
	if e.Name == "" {
		return "which release: none, or several bundles, are active here; name one"
	}
	if e.Wanted == "" {
		return fmt.Sprintf("release %s: there is none before the active one", e.Name)
	}
	return fmt.Sprintf("release %s %s is not kept here; kept are %v", e.Name, e.Wanted, e.Present)
}

// readActive reads the commit point; a relay that never activated anything has generation 0.
func readActive(dir string) (Active, error) {
	empty := Active{APIVersion: activeVersion}
	data, err := os.ReadFile(filepath.Join(dir, activeFile))
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return empty, err
	}
	var a Active
	if err := strictjson.UnmarshalCanonical(data, &a); err != nil {
		return empty, fmt.Errorf("%s: %w", activeFile, err)
	}
	if a.APIVersion != activeVersion {
		return empty, fmt.Errorf("%s: apiVersion %q, this version reads %q", activeFile, a.APIVersion, activeVersion)
	}
	return a, nil
}

// writeActive is the only commit: before it the old releases are served after a crash, after it the new ones.
func writeActive(dir string, a Active) error {
	data, err := strictjson.Marshal(a)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, activeFile), data, 0o644)
}

// accept gives the state after activating a release, and the same state when the release is active already.
func (a Active) accept(name string, r Release) (Active, error) {
	i, found := a.find(name)
	if !found {
		a.Generation++
		a.Streams = slices.Insert(slices.Clone(a.Streams), i, Stream{Name: name, Release: r, Accepted: r})
		return a, nil
	}
	s := a.Streams[i]
	if s.Release.same(r) {
		return a, nil
	}
	// What an attacker with an old, properly signed medium could replay ends here.
	if !s.Accepted.same(r) && !newer(r.Version, s.Accepted.Version) {
		return a, &OlderError{Name: name, Have: s.Accepted.Version, Offered: r.Version, Digest: r.Bundle.Digest}
	}
	s.Accepted = r
	return a.replace(i, s, r), nil
}

// rollback gives the state after going back to a kept release: the one named by version or digest, or, with wanted
// empty, the latest served before that is not newer than the active one.
func (a Active) rollback(name, wanted string) (Active, error) {
	i, found := a.find(name)
	if !found {
		return a, &NoReleaseError{Name: name, Wanted: wanted}
	}
	s := a.Streams[i]
	for _, p := range s.Previous {
		if wanted == "" && !comparablyNewer(p.Version, s.Release.Version) || wanted != "" && (p.Version == wanted || p.Bundle.Digest.String() == wanted) {
			return a.replace(i, s, p), nil
		}
	}
	e := &NoReleaseError{Name: name, Wanted: wanted}
	for _, p := range s.Previous {
		e.Present = append(e.Present, p.Version)
	}
	return a, e
}

// replace makes r the active release of stream i and keeps the one that was.
func (a Active) replace(i int, s Stream, r Release) Active {
	kept := slices.DeleteFunc(slices.Clone(s.Previous), r.same)
	s.Previous = append([]Release{s.Release}, kept...)
	s.Previous = s.Previous[:min(len(s.Previous), maxPrevious)]
	s.Release = r
	a.Generation++
	a.Streams = slices.Clone(a.Streams)
	a.Streams[i] = s
	return a
}

func (a Active) find(name string) (int, bool) {
	return slices.BinarySearchFunc(a.Streams, name, func(s Stream, n string) int { return strings.Compare(s.Name, n) })
}

func (r Release) same(other Release) bool { return r.Bundle.Digest == other.Bundle.Digest }

// newer compares semantic versions, with or without a leading v. Versions that are not semantic have no order that
// could be enforced: then any other version counts as newer.
func newer(a, b string) bool {
	va, vb := canonical(a), canonical(b)
	if !semver.IsValid(va) || !semver.IsValid(vb) {
		return a != b
	}
	return semver.Compare(va, vb) > 0
}

func comparablyNewer(a, b string) bool {
	return semver.IsValid(canonical(a)) && semver.IsValid(canonical(b)) && newer(a, b)
}

func canonical(v string) string { return "v" + strings.TrimPrefix(v, "v") }
