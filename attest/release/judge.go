package release

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/mod/semver"
)

// ChannelError says that a bundle is not released to the channel that wants it.
type ChannelError struct {
	Want string   // the channel that was asked for
	Have []string // the channels that the bundle is released to
}

func (e *ChannelError) Error() string {
	return fmt.Sprintf("released to channel %s, not to %s", strings.Join(e.Have, ", "), e.Want)
}

// CheckChannel refuses a release for another channel than the wanted one. The error is a *ChannelError.
func CheckChannel(r *Release, channel string) error {
	if r.Channel != channel {
		return &ChannelError{Want: channel, Have: []string{r.Channel}}
	}
	return nil
}

// ContentError says that a statement describes its bundle otherwise than the bundle's lock does.
type ContentError struct {
	Name, Version         string // of the statement
	LockName, LockVersion string // of the bundle
}

func (e *ContentError) Error() string {
	return fmt.Sprintf("the statement releases %s %s, the bundle is %s %s", e.Name, e.Version, e.LockName, e.LockVersion)
}

// CheckContent refuses a statement whose name and version are not those of the bundle's lock: releases without sequence
// are ordered by them. The error is a *ContentError.
func CheckContent(v *VerifiedRelease, lockName, lockVersion string) error {
	if v.name != lockName || v.document.Version != lockVersion {
		return &ContentError{Name: v.name, Version: v.document.Version, LockName: lockName, LockVersion: lockVersion}
	}
	return nil
}

// SiteError says that a statement is for other sites.
type SiteError struct {
	Site    string   // empty when the relay has no site's name
	Allowed []string //
}

func (e *SiteError) Error() string {
	const shown = 5
	names := e.Allowed[:min(len(e.Allowed), shown)]
	text := strings.Join(names, ", ")
	if more := len(e.Allowed) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	if e.Site == "" {
		return "only for the sites " + text + ", and this relay has no site's name"
	}
	return fmt.Sprintf("only for the sites %s, not for %q", text, e.Site)
}

// CheckSite refuses a release that names sites, none of which is this one. Names are compared byte by byte. The error is
// a *SiteError.
func CheckSite(r *Release, site string) error { return checkSite(r.Sites, site) }

func checkSite(allowed []string, site string) error {
	if len(allowed) == 0 || slices.Contains(allowed, site) {
		return nil
	}
	return &SiteError{Site: site, Allowed: slices.Clone(allowed)}
}

// ExpiredError says that a statement is behind its use-by.
type ExpiredError struct {
	UseBy time.Time // the last second in which it could be used
	Now   time.Time
}

func (e *ExpiredError) Error() string {
	return fmt.Sprintf("to be used by %s, and it is %s", e.UseBy.UTC().Format(time.RFC3339), e.Now.UTC().Format(time.RFC3339))
}

// CheckUseBy refuses a release behind its use-by. One without a use-by can be used for ever. The error is an
// *ExpiredError.
func CheckUseBy(r *Release, now time.Time) error { return checkUseBy(r.UseBy, now) }

// checkUseBy compares whole seconds, so that the second of the use-by belongs to it. A text that is no time is expired.
func checkUseBy(useBy string, now time.Time) error {
	if until := instant(useBy); useBy != "" && now.Truncate(time.Second).After(until) {
		return &ExpiredError{UseBy: until, Now: now}
	}
	return nil
}

// EpochError says that a release is below the security epoch.
type EpochError struct{ Floor, Offered uint64 }

func (e *EpochError) Error() string {
	return fmt.Sprintf("security epoch %d, and nothing below %d is accepted any more", e.Offered, e.Floor)
}

// CheckEpoch refuses a release below the floor: the highest epoch that was accepted, or that a revocation demands. The
// error is an *EpochError.
func CheckEpoch(r *Release, floor uint64) error {
	if r.Epoch < floor {
		return &EpochError{Floor: floor, Offered: r.Epoch}
	}
	return nil
}

// MinRelayError says that a relay is too old for a release.
type MinRelayError struct {
	Want string // semantic version, without v
	Have string // of the relay
}

func (e *MinRelayError) Error() string {
	if !isSemantic(e.Have) {
		return fmt.Sprintf("wants plimsoll-relay %s or newer, and nobody knows how old version %q is", e.Want, e.Have)
	}
	return fmt.Sprintf("wants plimsoll-relay %s or newer, this is %s", e.Want, e.Have)
}

// CheckMinRelay refuses a release for newer relays than this version, which is semantic with or without a v. A version
// that is not semantic takes only releases that want none. The error is a *MinRelayError.
func CheckMinRelay(r *Release, relay string) error {
	if r.MinRelay == "" || isSemantic(relay) && semver.Compare(withV(relay), withV(r.MinRelay)) >= 0 {
		return nil
	}
	return &MinRelayError{Want: r.MinRelay, Have: relay}
}

// RevokedError says that something was revoked.
type RevokedError struct {
	Number uint64 // of the revocation
	Kind   string // bundle, image
	Digest digest.Digest
}

func (e *RevokedError) Error() string {
	return fmt.Sprintf("%s %s was revoked by revocation %d", e.Kind, e.Digest, e.Number)
}

// CheckRevoked refuses a bundle that a revocation (or nil) names, or one of whose images it names. The epoch of the
// revocation is for CheckEpoch, its keys are for Keys.Without. The error is a *RevokedError.
func CheckRevoked(r *Revocation, bundle digest.Digest, images []digest.Digest) error {
	if r.Revokes(bundle) {
		return &RevokedError{Number: r.Number, Kind: "bundle", Digest: bundle}
	}
	for _, d := range images {
		if r.Revokes(d) {
			return &RevokedError{Number: r.Number, Kind: "image", Digest: d}
		}
	}
	return nil
}

// ApprovalError says that no approval of the owner fits a release.
type ApprovalError struct {
	Channel  string
	Sequence uint64 // 0: none
	Bundle   digest.Digest
	Seen     []error // why each approval does not fit, in their order
}

func (e *ApprovalError) Error() string {
	text := fmt.Sprintf("the owner did not approve %s for %s", e.Bundle, place(e.Channel, e.Sequence))
	if len(e.Seen) > 0 {
		text += ": " + e.Seen[0].Error()
	}
	if len(e.Seen) > 1 {
		text += fmt.Sprintf(" (and %d more)", len(e.Seen)-1)
	}
	return text
}

// Unwrap gives the reasons.
func (e *ApprovalError) Unwrap() []error { return e.Seen }

func place(channel string, sequence uint64) string {
	if sequence == 0 {
		return "channel " + channel + " without a sequence"
	}
	return fmt.Sprintf("channel %s, sequence %d", channel, sequence)
}

// ApprovedPlaceError says that an approval is for another place of a channel.
type ApprovedPlaceError struct {
	Channel  string // that was approved
	Sequence uint64
}

func (e *ApprovedPlaceError) Error() string {
	return "approved was " + place(e.Channel, e.Sequence)
}

// ApprovedBundleError says that an approval is for another bundle.
type ApprovedBundleError struct{ Bundle digest.Digest }

func (e *ApprovedBundleError) Error() string { return "approved was " + e.Bundle.String() }

// FindApproval gives the first approval that is for this very bundle at this place of its channel, for this site, and
// still counts. It fails with *ApprovalError.
func FindApproval(approvals []*VerifiedApproval, v *VerifiedRelease, site string, now time.Time) (*VerifiedApproval, error) {
	r := v.document
	denied := &ApprovalError{Channel: r.Channel, Sequence: r.Sequence, Bundle: v.subject}
	for _, a := range approvals {
		err := checkApproval(a, v, site, now)
		if err == nil {
			return a, nil
		}
		denied.Seen = append(denied.Seen, err)
	}
	return nil, denied
}

func checkApproval(a *VerifiedApproval, v *VerifiedRelease, site string, now time.Time) error {
	switch {
	case a.subject != v.subject:
		return &ApprovedBundleError{Bundle: a.subject}
	case a.document.Channel != v.document.Channel || a.document.Sequence != v.document.Sequence:
		return &ApprovedPlaceError{Channel: a.document.Channel, Sequence: a.document.Sequence}
	}
	if err := checkSite(a.document.Sites, site); err != nil {
		return err
	}
	return checkUseBy(a.document.UseBy, now)
}

// Use is a situation in which a permit is wanted.
type Use struct {
	Check  Check                // that said no
	Site   string               // this one
	Relay  string               // attest.KeyID of this relay's key
	Bundle digest.Digest        // that is to be imported
	Now    time.Time            //
	Used   func(id string) bool // whether a permit was used up; nil means that none was
}

// PermitError says why a permit does not help.
type PermitError struct {
	ID     string
	Reason string
	Err    error // the cause, if there is one: *ExpiredError, *SiteError
}

func (e *PermitError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("permit %s: %v", e.ID, e.Err)
	}
	return fmt.Sprintf("permit %s: %s", e.ID, e.Reason)
}

// Unwrap gives the cause.
func (e *PermitError) Unwrap() error { return e.Err }

// Covers refuses a permit for another check, site, relay, bundle or time, or one that was used up. One import may use it
// for all the checks that it names; then its id is used up. The error is a *PermitError.
func (v *VerifiedPermit) Covers(u Use) error {
	p := v.document
	no := func(format string, args ...any) error {
		return &PermitError{ID: p.ID, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case u.Bundle == "" || v.subject != u.Bundle:
		return no("it is for bundle %s, not for %s", v.subject, u.Bundle)
	case p.Site != u.Site:
		return &PermitError{ID: p.ID, Err: &SiteError{Site: u.Site, Allowed: []string{p.Site}}}
	case p.Relay != "" && p.Relay != u.Relay:
		return no("it is for relay %s, not for %s", p.Relay, u.Relay)
	case !slices.Contains(p.Overrides, u.Check):
		return no("it does not override %q, only %v", u.Check, p.Overrides)
	case u.Used != nil && u.Used(p.ID):
		return no("it was used before")
	}
	if err := checkUseBy(p.NotAfter, u.Now); err != nil {
		return &PermitError{ID: p.ID, Err: err}
	}
	return nil
}
