package allowlist

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// SiteError says that a list is another site's.
type SiteError struct{ Want, Got string }

func (e *SiteError) Error() string {
	return fmt.Sprintf("allow-list: it is for site %s, this is %s", e.Got, e.Want)
}

// OlderError says that a newer list of the same relay was seen.
type OlderError struct {
	Relay         string // its key's id
	Have, Offered uint64 // generations
}

func (e *OlderError) Error() string {
	return fmt.Sprintf("allow-list: generation %d is older than generation %d, which was already seen", e.Offered, e.Have)
}

// ExpiredError says that the time of a list is over.
type ExpiredError struct{ NotAfter, Now string }

func (e *ExpiredError) Error() string {
	return fmt.Sprintf("allow-list: it was good until %s, and it is %s", e.NotAfter, e.Now)
}

// Fit tells whether the list is one for this site, now: *SiteError, *OlderError or *ExpiredError. A clock that is behind
// the time at which the list was made does not count, the list's own time does.
func (v *Verified) Fit(site string, now time.Time, seen Seen) error {
	l := v.list
	if l.Site != site {
		return &SiteError{Want: site, Got: l.Site}
	}
	if have := seen.Generation(site, l.Relay.Key); l.Generation < have {
		return &OlderError{Relay: l.Relay.Key, Have: have, Offered: l.Generation}
	}
	if l.NotAfter == "" {
		return nil
	}
	end, err := time.Parse(time.RFC3339, l.NotAfter)
	if err != nil {
		return malformed("notAfter %.40q", l.NotAfter) // Verify does not let it pass
	}
	if now.After(end) {
		return &ExpiredError{NotAfter: l.NotAfter, Now: now.UTC().Format(time.RFC3339)}
	}
	return nil
}

// NotListedError says that no release has an image under this name.
type NotListedError struct {
	Repository string
	Digest     digest.Digest
	Elsewhere  string // a repository in which the list has the digest; empty if there is none
	Generation uint64
}

func (e *NotListedError) Error() string {
	if e.Elsewhere != "" {
		return fmt.Sprintf("%s is an image of %s and not of %s, in generation %d", e.Digest, e.Elsewhere, e.Repository, e.Generation)
	}
	return fmt.Sprintf("no release at this site has %s@%s; the allow-list is that of generation %d", e.Repository, e.Digest, e.Generation)
}

// Allows tells whether the list has a digest in a repository, and whether its release is active; else the error is a
// *NotListedError. Name and digest must fit: a registry that answers for one tag with another program of the same release
// is refused. The tag does not count, because what it stands for changes from one generation to the next.
func (v *Verified) Allows(repository string, d digest.Digest) (active bool, err error) {
	i, found := slices.BinarySearchFunc(v.list.Repositories, repository, func(r Repository, name string) int { return strings.Compare(r.Name, name) })
	if found {
		r := &v.list.Repositories[i]
		if _, ok := slices.BinarySearch(r.Active, d); ok {
			return true, nil
		}
		if _, ok := slices.BinarySearch(r.Kept, d); ok {
			return false, nil
		}
	}
	no := &NotListedError{Repository: repository, Digest: d, Generation: v.list.Generation}
	for _, r := range v.list.Repositories {
		_, active := slices.BinarySearch(r.Active, d)
		_, kept := slices.BinarySearch(r.Kept, d)
		if active || kept {
			no.Elsewhere = r.Name
			break
		}
	}
	return false, no
}

// MaxSeen bounds the bytes of an encoded Seen.
const MaxSeen = 64 << 10

const (
	seenVersion = "plimsoll.allowlist-seen.v1"
	maxMarks    = 128
)

// Seen is what a verifier remembers: of each site and relay, the highest generation. The zero value remembers nothing.
type Seen struct {
	APIVersion string `json:"apiVersion"`
	Highest    []Mark `json:"highest"` // by site and key
}

// Mark is the highest generation of a list that was seen.
type Mark struct {
	Site       string `json:"site"`
	Key        string `json:"key"` // of the relay
	Generation uint64 `json:"generation"`
}

// ParseSeen reads what Encode gives. The error is a *FormatError.
func ParseSeen(data []byte) (Seen, error) {
	var s Seen
	if len(data) > MaxSeen {
		return s, malformed("seen: more than %d bytes", MaxSeen)
	}
	if err := strictjson.UnmarshalCanonical(data, &s); err != nil {
		return Seen{}, &FormatError{Reason: "seen", Err: err}
	}
	if s.APIVersion != seenVersion || s.Highest == nil || len(s.Highest) > maxMarks {
		return Seen{}, malformed("seen: apiVersion %.80q with %d marks; want %q and at most %d", s.APIVersion, len(s.Highest), seenVersion, maxMarks)
	}
	for i, m := range s.Highest {
		if !IsSite(m.Site) || !isHex(m.Key, keyDigits) || m.Generation > maxGeneration || i > 0 && s.Highest[i-1].compare(m.Site, m.Key) >= 0 {
			return Seen{}, malformed("seen: mark %d is not one, or not in order", i)
		}
	}
	return s, nil
}

// Encode gives the canonical bytes.
func (s Seen) Encode() ([]byte, error) { return strictjson.Marshal(s) }

// Generation is the highest one of a relay's lists for a site; 0 if none was seen.
func (s Seen) Generation(site, key string) uint64 {
	if i, found := s.find(site, key); found {
		return s.Highest[i].Generation
	}
	return 0
}

// With remembers a list, too; raised tells whether that is news. A mark is never lowered. When there are too many marks,
// that is an error and not the end of one of them: to forget is to let an old list in again.
func (s Seen) With(v *Verified) (next Seen, raised bool, err error) {
	l := v.list
	i, found := s.find(l.Site, l.Relay.Key)
	switch {
	case found && s.Highest[i].Generation >= l.Generation:
		return s, false, nil
	case !found && len(s.Highest) >= maxMarks:
		return s, false, malformed("seen: more than %d relays and sites", maxMarks)
	}
	next = Seen{APIVersion: seenVersion, Highest: append([]Mark{}, s.Highest...)}
	if !found {
		next.Highest = slices.Insert(next.Highest, i, Mark{Site: l.Site, Key: l.Relay.Key})
	}
	next.Highest[i].Generation = l.Generation
	return next, true, nil
}

func (s Seen) find(site, key string) (int, bool) {
	return slices.BinarySearchFunc(s.Highest, struct{}{}, func(m Mark, _ struct{}) int { return m.compare(site, key) })
}

func (m Mark) compare(site, key string) int {
	if c := strings.Compare(m.Site, site); c != 0 {
		return c
	}
	return strings.Compare(m.Key, key)
}
