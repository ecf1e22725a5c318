package relay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/mod/semver"

	"github.com/plimsoll/plimsoll/internal/strictjson"
	"github.com/plimsoll/plimsoll/relay/state"
)

// activeVersion is Active.APIVersion.
const activeVersion = "plimsoll.active.v2"

// activeFile is the commit point: the document by which a relay serves.
const activeFile = "active.json"

// Active is the relay's one mutable fact: which releases it serves and keeps. Everything that it serves is computed from
// this and from the store.
type Active struct {
	APIVersion string    `json:"apiVersion"`
	Generation uint64    `json:"generation"`     // rises by one with each change of what is served
	Channels   []Channel `json:"channels"`       // sorted by name
	Pins       []Pin     `json:"pins,omitempty"` // sorted by bundle

	// Precedence names channels that may serve the same tag or Git repository with different content: it is the earlier
	// one's then. Between channels of which one is not named here that is refused.
	Precedence []string `json:"precedence,omitempty"`
}

// Channel is a named sequence of releases of one bundle, of which one is active.
type Channel struct {
	Name     string    `json:"name"`
	Release  Release   `json:"release"`            // what is served
	Previous []Release `json:"previous,omitempty"` // what was served before, the latest first; kept, and pullable by digest
	Accepted Release   `json:"accepted"`           // the newest ever accepted: older ones come back by roll-back only
}

// Release names one accepted bundle.
type Release struct {
	Name    string             `json:"name"` // of the bundle
	Version string             `json:"version"`
	Bundle  ocispec.Descriptor `json:"bundle"` // of the index: media type, digest and size only
}

// Pin keeps a release until it is unpinned.
type Pin struct {
	Bundle digest.Digest `json:"bundle"`
	Since  string        `json:"since"` // RFC 3339, the relay's own clock
	Reason string        `json:"reason,omitempty"`
}

// Acceptance decides whether a channel may go on to a release. The channel is nil when it is new. It is not asked about
// roll-backs, which only go to what was accepted before.
type Acceptance func(c *Channel, offered Release) error

// NewerVersion accepts a release whose version is newer than the newest that was accepted.
func NewerVersion(c *Channel, offered Release) error {
	if c == nil || c.Accepted.same(offered) || newer(offered.Version, c.Accepted.Version) {
		return nil
	}
	return &OlderError{Name: offered.Name, Have: c.Accepted.Version, Offered: offered.Version, Digest: offered.Bundle.Digest}
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

// OtherBundleError says that a release was offered to a channel of another bundle.
type OtherBundleError struct{ Channel, Have, Offered string }

func (e *OtherBundleError) Error() string {
	return fmt.Sprintf("channel %s has releases of %s, not of %s", e.Channel, e.Have, e.Offered)
}

// NoReleaseError says that a named release is not here.
type NoReleaseError struct {
	Name    string   // of the channel or bundle
	Wanted  string   // version or digest; empty for "the one before"
	Present []string // versions that could be named, the latest first
}

func (e *NoReleaseError) Error() string {
	if e.Name == "" {
		return "which release: none, or several channels, are active here; name one"
	}
	if e.Wanted == "" {
		return fmt.Sprintf("release %s: there is none before the active one", e.Name)
	}
	return fmt.Sprintf("release %s %s is not kept here; kept are %v", e.Name, e.Wanted, e.Present)
}

// readActive reads the commit point; a relay that never activated anything has generation 0.
func readActive(ctx context.Context, docs state.Documents) (Active, state.Version, error) {
	empty := Active{APIVersion: activeVersion, Channels: []Channel{}}
	doc, err := docs.Read(ctx, activeFile)
	if errors.Is(err, fs.ErrNotExist) {
		return empty, state.None, nil
	}
	if err != nil {
		return empty, state.None, err
	}
	var a Active
	if err := strictjson.UnmarshalCanonical(doc.Data, &a); err != nil {
		return empty, state.None, fmt.Errorf("%s: %w", activeFile, err)
	}
	if a.APIVersion != activeVersion {
		return empty, state.None, fmt.Errorf("%s: apiVersion %q, this version reads %q", activeFile, a.APIVersion, activeVersion)
	}
	return a, doc.Version, nil
}

// writeActive is the only commit: before it the old releases are served after a crash, after it the new ones.
func writeActive(ctx context.Context, docs state.Documents, a Active, replaces state.Version) error {
	data, err := strictjson.Marshal(a)
	if err != nil {
		return err
	}
	if _, err := docs.Write(ctx, activeFile, data, replaces); err != nil {
		return fmt.Errorf("%s: %w", activeFile, err)
	}
	return nil
}

// retention says which releases of a channel stay when it goes on.
type retention struct {
	keep int                             // releases of a channel, the active one among them
	held func(digest digest.Digest) bool // kept beyond that: pinned, or promised by a receipt
}

// accept gives the state after activating a release, and the same state when the release is active already.
func (a Active) accept(channel string, r Release, may Acceptance, keep retention) (Active, error) {
	i, found := a.find(channel)
	if !found {
		if err := may(nil, r); err != nil {
			return a, err
		}
		a.Generation++
		a.Channels = slices.Insert(slices.Clone(a.Channels), i, Channel{Name: channel, Release: r, Accepted: r})
		return a, nil
	}
	c := a.Channels[i]
	if c.Release.same(r) {
		return a, nil
	}
	if c.Release.Name != r.Name {
		return a, &OtherBundleError{Channel: channel, Have: c.Release.Name, Offered: r.Name}
	}
	// What an attacker with an old, properly signed medium could replay ends here.
	if err := may(&c, r); err != nil {
		return a, err
	}
	c.Accepted = r
	return a.replace(i, c, r, keep), nil
}

// rollback gives the state after going back to a kept release: the one named by version or digest, or, with wanted
// empty, the latest served before that is not newer than the active one.
func (a Active) rollback(channel, wanted string, keep retention) (Active, error) {
	i, found := a.find(channel)
	if !found {
		return a, &NoReleaseError{Name: channel, Wanted: wanted}
	}
	c := a.Channels[i]
	for _, p := range c.Previous {
		if wanted == "" && !comparablyNewer(p.Version, c.Release.Version) || wanted != "" && p.is(wanted) {
			return a.replace(i, c, p, keep), nil
		}
	}
	e := &NoReleaseError{Name: channel, Wanted: wanted}
	for _, p := range c.Previous {
		e.Present = append(e.Present, p.Version)
	}
	return a, e
}

// replace makes r the active release of channel i and keeps the one that was, and of those before what retention wants.
func (a Active) replace(i int, c Channel, r Release, keep retention) Active {
	previous := append([]Release{c.Release}, slices.DeleteFunc(slices.Clone(c.Previous), r.same)...)
	c.Release, c.Previous = r, keep.trim(previous)
	a.Generation++
	a.Channels = slices.Clone(a.Channels)
	a.Channels[i] = c
	return a
}

// trim leaves the latest releases before the active one, and those that are held.
func (keep retention) trim(previous []Release) []Release {
	n := 1 // the active one
	return slices.DeleteFunc(previous, func(p Release) bool {
		if keep.held != nil && keep.held(p.Bundle.Digest) {
			return false
		}
		n++
		return n > keep.keep
	})
}

// without gives the state after a kept release was let go.
func (a Active) without(d digest.Digest) Active {
	a.Channels = slices.Clone(a.Channels)
	for i := range a.Channels {
		a.Channels[i].Previous = slices.DeleteFunc(slices.Clone(a.Channels[i].Previous), func(p Release) bool { return p.Bundle.Digest == d })
	}
	a.Generation++
	return a
}

// pin gives the state in which a release stays; unpin the one in which it need not.
func (a Active) pin(p Pin) Active {
	a = a.unpin(p.Bundle)
	i, _ := slices.BinarySearchFunc(a.Pins, p.Bundle, comparePin)
	a.Pins = slices.Insert(a.Pins, i, p)
	return a
}

func (a Active) unpin(d digest.Digest) Active {
	a.Pins = slices.DeleteFunc(slices.Clone(a.Pins), func(p Pin) bool { return p.Bundle == d })
	return a
}

// Pinned tells whether a release is pinned.
func (a Active) Pinned(d digest.Digest) bool {
	_, found := slices.BinarySearchFunc(a.Pins, d, comparePin)
	return found
}

func comparePin(p Pin, d digest.Digest) int { return strings.Compare(string(p.Bundle), string(d)) }

// ranked gives the channels in the order in which they may take names, and whether each leaves to those before it what
// they have taken.
func (a Active) ranked() (channels []Channel, yields []bool) {
	for _, name := range a.Precedence {
		if i, found := a.find(name); found {
			channels, yields = append(channels, a.Channels[i]), append(yields, len(channels) > 0)
		}
	}
	for _, c := range a.Channels {
		if !slices.Contains(a.Precedence, c.Name) {
			channels, yields = append(channels, c), append(yields, false)
		}
	}
	return channels, yields
}

// Releases gives all releases that are served or kept, of each channel the active one first.
func (a Active) Releases() []Release {
	var all []Release
	for _, c := range a.Channels {
		all = append(append(all, c.Release), c.Previous...)
	}
	return all
}

func (a Active) find(channel string) (int, bool) {
	return slices.BinarySearchFunc(a.Channels, channel, func(c Channel, n string) int { return strings.Compare(c.Name, n) })
}

func (r Release) same(other Release) bool { return r.Bundle.Digest == other.Bundle.Digest }

// is tells whether a version or digest names the release.
func (r Release) is(wanted string) bool {
	return r.Version == wanted || r.Bundle.Digest.String() == wanted
}

func (r Release) String() string { return r.Name + " " + r.Version }

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
