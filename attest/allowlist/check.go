package allowlist

import (
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	maxLabel      = 128       // bytes of the name of a relay or site
	maxGeneration = 1<<53 - 1 // the largest number that every JSON parser reads exactly
	keyDigits     = 64        // of a key's id
)

// Validate reports the first rule of the format that the list breaks. The error is a *FormatError.
func (l *List) Validate() error {
	switch {
	case !isLabel(l.Relay.Name):
		return malformed("relay name %.140q: want 1 to %d letters, digits and any of ._:/@-", l.Relay.Name, maxLabel)
	case !isHex(l.Relay.Key, keyDigits):
		return malformed("relay key %.80q: want the key's id, %d hex digits", l.Relay.Key, keyDigits)
	case !IsSite(l.Site):
		return malformed("site %.140q: %s", l.Site, siteRule)
	case l.Generation > maxGeneration:
		return malformed("generation %d", l.Generation)
	case l.Generation == 0 && len(l.Repositories) > 0:
		return malformed("generation 0 with images")
	case !isTime(l.Made):
		return malformed("made %.40q: want RFC 3339 in UTC with whole seconds", l.Made)
	case l.NotAfter != "" && !isTime(l.NotAfter):
		return malformed("notAfter %.40q: want RFC 3339 in UTC with whole seconds", l.NotAfter)
	case l.NotAfter != "" && l.NotAfter < l.Made: // of one form, so that their order is that of the times
		return malformed("not after %s, and made %s", l.NotAfter, l.Made)
	case l.Repositories == nil:
		return malformed("no list of repositories: want an empty one")
	case len(l.Repositories) > MaxRepositories:
		return malformed("%d repositories, the limit is %d", len(l.Repositories), MaxRepositories)
	case l.Digests() > MaxDigests:
		return malformed("%d digests, the limit is %d", l.Digests(), MaxDigests)
	}
	for i := range l.Repositories {
		if i > 0 && l.Repositories[i-1].Name >= l.Repositories[i].Name {
			return malformed("repositories are not sorted, or one is named twice: %.300q", l.Repositories[i].Name)
		}
		if err := l.Repositories[i].validate(); err != nil {
			return err
		}
	}
	return nil
}

func (r *Repository) validate() error {
	if !isRepository(r.Name) || Canonical(r.Name) != r.Name {
		return malformed("repository %.300q: not the canonical name of one", r.Name)
	}
	if len(r.Active)+len(r.Kept) == 0 {
		return malformed("repository %s: it has no images", r.Name)
	}
	for _, list := range [][]digest.Digest{r.Active, r.Kept} {
		for i, d := range list {
			if !IsDigest(d) {
				return malformed("repository %s: %.150q: want a SHA-256 or SHA-512 digest", r.Name, d)
			}
			if i > 0 && list[i-1] >= d {
				return malformed("repository %s: digests are not sorted, or one is there twice: %s", r.Name, d)
			}
		}
	}
	for a, k := r.Active, r.Kept; len(a) > 0 && len(k) > 0; {
		switch {
		case a[0] == k[0]:
			return malformed("repository %s: %s is active and kept", r.Name, a[0])
		case a[0] < k[0]:
			a = a[1:]
		default:
			k = k[1:]
		}
	}
	return nil
}

// isHex tells whether s is n lower-case hex digits. A regular expression would take most of the time of a large list.
func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// IsDigest takes the two algorithms that OCI registers. Of a weaker one, two images could have the same digest.
func IsDigest(d digest.Digest) bool {
	algorithm, hex, ok := strings.Cut(string(d), ":")
	switch {
	case !ok:
		return false
	case algorithm == "sha256":
		return isHex(hex, 64)
	}
	return algorithm == "sha512" && isHex(hex, 128)
}

const siteRule = "want 1 to 128 lower-case letters, digits, dots, dashes and underscores, with a letter or digit at both ends"

// IsSite tells whether a text can be the name of a site: the rule is that of release statements.
func IsSite(s string) bool {
	if s == "" || len(s) > maxLabel || !isAlnum(s[0]) || !isAlnum(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if !isAlnum(s[i]) && strings.IndexByte("._-", s[i]) < 0 {
			return false
		}
	}
	return true
}

func isLabel(s string) bool {
	if len(s) == 0 || len(s) > maxLabel {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && (c < 'A' || c > 'Z') && strings.IndexByte("._:/@-", c) < 0 {
			return false
		}
	}
	return true
}

func isAlnum(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

func isTime(text string) bool {
	t, err := time.Parse(time.RFC3339, text)
	return err == nil && t.UTC().Format(time.RFC3339) == text
}
