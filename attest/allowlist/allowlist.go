// Package allowlist is which images a robot may run, said by the relay of its site and signed with the relay's own key.
//
// A list names the digests of the image indexes and manifests of the releases that the relay serves and keeps, and the
// repositories that it serves them in. plimsoll-image-verifier asks it before containerd pulls. It is an in-toto
// Statement v1 in a DSSE envelope, in one canonical encoding; docs/image-verifier.md describes it. Reading one is bounded
// and needs neither a network nor a clock. Only Verify makes a Verified.
//
// The package is small on purpose: the verifier runs at each pull, so that nothing here may link a network, X.509 or the
// libraries of Sigstore.
package allowlist

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// PredicateType is the in-toto predicate type of a list.
const PredicateType = "https://plimsoll.dev/allowlist/v1"

// The limits of a list. Bytes and values are counted before anything is decoded.
const (
	MaxList         = 16 << 20 // bytes of the envelope
	MaxDigests      = 131_072  // in all repositories together
	MaxRepositories = 8192     //
	MaxName         = 1024     // bytes of an image's reference
	MaxKeys         = 16       // that may be trusted
)

// List is the predicate of the statement. Lists in it are sorted and name nothing twice; what is empty is absent.
type List struct {
	Relay        Relay        `json:"relay"`              // who says it
	Site         string       `json:"site"`               // for whose robots it is
	Generation   uint64       `json:"generation"`         // that the relay serves; a higher one replaces a lower one
	Made         string       `json:"made"`               // RFC 3339, UTC, whole seconds
	NotAfter     string       `json:"notAfter,omitempty"` // likewise; absent: as long as no higher generation is known
	Repositories []Repository `json:"repositories"`       // by name
}

// Relay names the relay.
type Relay struct {
	Name string `json:"name"`
	Key  string `json:"key"` // KeyID of the key that signs the list
}

// Repository is what may be pulled from one repository. A digest is active or kept, not both.
type Repository struct {
	Name   string          `json:"name"`             // canonical: ghcr.io/acme/robot-app
	Active []digest.Digest `json:"active,omitempty"` // of active releases
	Kept   []digest.Digest `json:"kept,omitempty"`   // of releases that are only kept, to go back to
}

// Image is one digest in one repository.
type Image struct {
	Repository string
	Digest     digest.Digest
	Active     bool // its release is active, not only kept
}

// Collect sorts images as a list has them. What is in an active release and in a kept one is active.
func Collect(images []Image) []Repository {
	images = slices.Clone(images)
	for i := range images {
		images[i].Repository = Canonical(images[i].Repository)
	}
	slices.SortFunc(images, func(a, b Image) int {
		return cmp.Or(strings.Compare(a.Repository, b.Repository), strings.Compare(string(a.Digest), string(b.Digest)), order(a, b))
	})
	all := []Repository{}
	for i, img := range images {
		if i > 0 && img.Repository == images[i-1].Repository && img.Digest == images[i-1].Digest {
			continue
		}
		if len(all) == 0 || all[len(all)-1].Name != img.Repository {
			all = append(all, Repository{Name: img.Repository})
		}
		repo := &all[len(all)-1]
		if img.Active {
			repo.Active = append(repo.Active, img.Digest)
		} else {
			repo.Kept = append(repo.Kept, img.Digest)
		}
	}
	return all
}

func order(a, b Image) int {
	switch {
	case a.Active == b.Active:
		return 0
	case a.Active:
		return -1
	}
	return 1
}

// Digests is how many digests the list has.
func (l *List) Digests() (n int) {
	for _, r := range l.Repositories {
		n += len(r.Active) + len(r.Kept)
	}
	return n
}

// FormatError says that something is not a list, or one that breaks a rule of the format.
type FormatError struct {
	Reason string
	Err    error // the cause, if there is one
}

func (e *FormatError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("allow-list: %s: %v", e.Reason, e.Err)
	}
	return "allow-list: " + e.Reason
}

// Unwrap gives the cause.
func (e *FormatError) Unwrap() error { return e.Err }

func malformed(format string, args ...any) *FormatError {
	return &FormatError{Reason: fmt.Sprintf(format, args...)}
}
