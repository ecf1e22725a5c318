package release

import (
	"fmt"

	"github.com/opencontainers/go-digest"
	"golang.org/x/mod/semver"
)

// Accepted is what a relay remembers of a channel for ever: the release that nothing older may follow.
type Accepted struct {
	Channel  string        `json:"channel"`
	Sequence uint64        `json:"sequence,omitempty"` // 0: the channel never had one
	Version  string        `json:"version"`
	Bundle   digest.Digest `json:"bundle"`
}

// Accepted is the place of a release in its channel.
func (v *VerifiedRelease) Accepted() Accepted {
	return Accepted{Channel: v.document.Channel, Sequence: v.document.Sequence, Version: v.document.Version, Bundle: v.subject}
}

// SequenceError says that a release is behind the one that a channel accepted.
type SequenceError struct {
	Channel       string
	Have, Offered uint64
}

func (e *SequenceError) Error() string {
	return fmt.Sprintf("channel %s: sequence %d is offered, %d was already accepted", e.Channel, e.Offered, e.Have)
}

// UnsequencedError says that a release has no sequence, and the channel has.
type UnsequencedError struct {
	Channel string
	Have    uint64
}

func (e *UnsequencedError) Error() string {
	return fmt.Sprintf("channel %s: a release without sequence is offered, and sequence %d was already accepted", e.Channel, e.Have)
}

// EquivocationError says that two bundles were released as the same one: somebody with the release keys tells two
// stories.
type EquivocationError struct {
	Channel       string
	Sequence      uint64 // 0: the version is the same
	Version       string // iff Sequence is 0
	Have, Offered digest.Digest
}

func (e *EquivocationError) Error() string {
	what := fmt.Sprintf("sequence %d", e.Sequence)
	if e.Sequence == 0 {
		what = "version " + e.Version
	}
	return fmt.Sprintf("channel %s: %s is offered as %s, and was already accepted as %s", e.Channel, what, e.Offered, e.Have)
}

// VersionError says that a release without sequence is not newer than the one that a channel accepted.
type VersionError struct {
	Channel       string
	Have, Offered string
}

func (e *VersionError) Error() string {
	if !isSemantic(e.Have) {
		return fmt.Sprintf("channel %s: version %s is offered, and %s, which was accepted, is not semantic: only a sequence can follow", e.Channel, e.Offered, e.Have)
	}
	return fmt.Sprintf("channel %s: version %s is offered, the newer %s was already accepted", e.Channel, e.Offered, e.Have)
}

// CheckSequence says whether a channel that accepted one release (nil: none) may go on to another, and what it must
// remember then. A higher sequence may lead to any bundle, also to an old one: so is a downgrade meant. The bundle that
// was accepted last may always be offered again, and changes nothing unless it comes with a higher place. A channel that
// once had a sequence takes nothing without; one that had none may get one, with any version. The error is a
// *ChannelError, *SequenceError, *UnsequencedError, *VersionError or *EquivocationError.
func CheckSequence(previous *Accepted, offered Accepted) (Accepted, error) {
	if previous == nil {
		return offered, nil
	}
	have := *previous
	same := have.Bundle == offered.Bundle
	switch {
	case have.Channel != offered.Channel:
		return have, &ChannelError{Want: have.Channel, Have: []string{offered.Channel}}
	case offered.Sequence > have.Sequence:
		return offered, nil
	case have.Sequence > 0 && offered.Sequence == 0:
		return have, &UnsequencedError{Channel: have.Channel, Have: have.Sequence}
	case same:
		// Its place stays: an old statement about the same bundle must not lower what was reached.
		return have, nil
	case have.Sequence > 0 && offered.Sequence == have.Sequence:
		return have, &EquivocationError{Channel: have.Channel, Sequence: have.Sequence, Have: have.Bundle, Offered: offered.Bundle}
	case have.Sequence > 0:
		return have, &SequenceError{Channel: have.Channel, Have: have.Sequence, Offered: offered.Sequence}
	}
	return checkVersion(have, offered)
}

func checkVersion(have, offered Accepted) (Accepted, error) {
	if !isSemantic(have.Version) || !isSemantic(offered.Version) {
		return have, &VersionError{Channel: have.Channel, Have: have.Version, Offered: offered.Version}
	}
	switch semver.Compare(withV(offered.Version), withV(have.Version)) {
	case 1:
		return offered, nil
	case 0: // versions that differ in build metadata only have no order
		return have, &EquivocationError{Channel: have.Channel, Version: offered.Version, Have: have.Bundle, Offered: offered.Bundle}
	default:
		return have, &VersionError{Channel: have.Channel, Have: have.Version, Offered: offered.Version}
	}
}
