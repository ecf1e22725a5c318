// Package channel gives the releases of a channel their sequence numbers, in the registry repository where its bundles
// are.
//
// A tag CHANNEL.SEQUENCE.DIGEST on a bundle claims a place in the channel; the digest is the beginning of the bundle's.
// Registries have no write that depends on what is there, so that two jobs could take one number. Therefore each
// announces its claim before it looks whether it is alone: of two that take the same number at the same time at least one
// sees the other, and gives up. A claim whose job died is passed over; numbers rise, they need not follow each other.
package channel

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

const (
	digestDigits = 16      // of a bundle's digest, in a claim
	maxSequence  = 1 << 53 // from here on numbers are not exact in every JSON parser
	maxAhead     = 1000    // how far claims may be ahead of the last number that is signed
	maxLooked    = 32      // tags whose statements are looked at
)

// Claim is a place in a channel that somebody took for a bundle.
type Claim struct {
	Channel  string
	Sequence uint64
	Bundle   string // the first hexadecimal digits of its digest
}

// NewClaim is the claim of a bundle.
func NewClaim(channel string, sequence uint64, bundle digest.Digest) Claim {
	return Claim{channel, sequence, bundle.Encoded()[:digestDigits]}
}

// Tag is the claim as an OCI tag.
func (c Claim) Tag() string { return fmt.Sprintf("%s.%d.%s", c.Channel, c.Sequence, c.Bundle) }

// ParseClaim reads a tag; ok is false for one that claims nothing.
func ParseClaim(tag string) (c Claim, ok bool) {
	i := strings.LastIndexByte(tag, '.')
	if i < 0 {
		return Claim{}, false
	}
	j := strings.LastIndexByte(tag[:i], '.')
	if j < 1 {
		return Claim{}, false
	}
	n, err := strconv.ParseUint(tag[j+1:i], 10, 64)
	if err != nil || n == 0 || n >= maxSequence {
		return Claim{}, false
	}
	c = Claim{Channel: tag[:j], Sequence: n, Bundle: tag[i+1:]}
	hex := strings.Trim(c.Bundle, "0123456789abcdef") == "" && len(c.Bundle) == digestDigits
	return c, hex && c.Tag() == tag
}

// Repository is the place of a channel's bundles.
type Repository interface {
	// Tags lists all tags.
	Tags(ctx context.Context) ([]string, error)
	// Tag puts a tag on the bundle that is being released.
	Tag(ctx context.Context, tag string) error
	// Signed gives the sequences in the channel of all release statements beside the bundle at a tag that are signed by keys
	// which count; none when there are none.
	Signed(ctx context.Context, tag, channel string) ([]uint64, error)
}

// RaceError says that another job took the same place at the same time.
type RaceError struct {
	Channel  string
	Sequence uint64
	Tag      string // the other's claim
}

func (e *RaceError) Error() string {
	return fmt.Sprintf("channel %s: sequence %d was claimed by another release at the same time (tag %s)", e.Channel, e.Sequence, e.Tag)
}

// AheadError says that claims are so far ahead of what is signed that nobody can have come there by releasing.
type AheadError struct {
	Channel string
	Tag     string
	Signed  uint64 // the last sequence that is signed
}

func (e *AheadError) Error() string {
	return fmt.Sprintf("channel %s: tag %s claims a sequence far ahead of %d, the last one that is signed", e.Channel, e.Tag, e.Signed)
}

// OlderError says that a sequence that was asked for is not ahead of the channel.
type OlderError struct {
	Channel      string
	Have, Wanted uint64
}

func (e *OlderError) Error() string {
	return fmt.Sprintf("channel %s: sequence %d is not higher than %d, which is taken", e.Channel, e.Wanted, e.Have)
}

// Next claims a place in the channel for a bundle: the wanted one, or with 0 the next one. The bundle that has the last
// place keeps it.
func Next(ctx context.Context, repo Repository, channel string, bundle digest.Digest, wanted uint64) (uint64, error) {
	claims, err := list(ctx, repo, channel)
	if err != nil {
		return 0, err
	}
	last := uint64(0)
	if len(claims) > 0 {
		last = claims[len(claims)-1].Sequence
		if err := checkAhead(ctx, repo, channel, claims); err != nil {
			return 0, err
		}
	}
	// The only one who claims the last place may be here again, to finish or to add a signature.
	if mine := NewClaim(channel, last, bundle); last > 0 && (wanted == 0 || wanted == last) && alone(claims, mine) == nil {
		return last, nil
	}
	if wanted == 0 {
		wanted = last + 1
	}
	if wanted <= last {
		return 0, &OlderError{channel, last, wanted}
	}
	if wanted >= maxSequence {
		return 0, fmt.Errorf("channel %s: there are no sequences beyond %d", channel, uint64(maxSequence-1))
	}
	mine := NewClaim(channel, wanted, bundle)
	if err := repo.Tag(ctx, mine.Tag()); err != nil {
		return 0, err
	}
	if claims, err = list(ctx, repo, channel); err != nil {
		return 0, err
	}
	if !slices.Contains(claims, mine) {
		return 0, fmt.Errorf("channel %s: tag %s was set, and is not listed", channel, mine.Tag())
	}
	return wanted, alone(claims, mine)
}

// alone fails when anybody else claims the same place or one behind it.
func alone(claims []Claim, mine Claim) error {
	found := false
	for _, c := range claims {
		switch {
		case c == mine:
			found = true
		case c.Sequence >= mine.Sequence:
			return &RaceError{mine.Channel, mine.Sequence, c.Tag()}
		}
	}
	if !found {
		return fmt.Errorf("channel %s: no claim %s", mine.Channel, mine.Tag())
	}
	return nil
}

// list gives the claims of a channel, sorted by sequence.
func list(ctx context.Context, repo Repository, channel string) ([]Claim, error) {
	tags, err := repo.Tags(ctx)
	if err != nil {
		return nil, err
	}
	var all []Claim
	for _, tag := range tags {
		if c, ok := ParseClaim(tag); ok && c.Channel == channel {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b Claim) int {
		return cmp.Or(cmp.Compare(a.Sequence, b.Sequence), cmp.Compare(a.Bundle, b.Bundle))
	})
	return all, nil
}

// checkAhead refuses claims that nobody can have come to by releasing: one tag with the highest number would end the
// channel for good.
func checkAhead(ctx context.Context, repo Repository, channel string, claims []Claim) error {
	top := claims[len(claims)-1]
	if top.Sequence <= maxAhead {
		return nil
	}
	signed := uint64(0)
	for i := len(claims) - 1; i >= max(0, len(claims)-maxLooked) && signed == 0; i-- {
		sequences, err := repo.Signed(ctx, claims[i].Tag(), channel)
		if err != nil {
			return err
		}
		for _, n := range sequences {
			signed = max(signed, n)
		}
	}
	if top.Sequence > signed+maxAhead {
		return &AheadError{channel, top.Tag(), signed}
	}
	return nil
}
