package receipt

import (
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
)

var (
	relayPattern   = regexp.MustCompile(`^[A-Za-z0-9._:/@-]{1,128}$`) // fit for the signed notes of a journal, too
	channelPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,127}$`)
)

// isHex tells whether s is n lower-case hex digits. A regular expression would take most of the time of a large receipt.
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

func isSHA256(d digest.Digest) bool {
	hex, ok := strings.CutPrefix(string(d), "sha256:")
	return ok && isHex(hex, 64)
}

func isSHA512(d digest.Digest) bool {
	hex, ok := strings.CutPrefix(string(d), "sha512:")
	return ok && isHex(hex, 128)
}

const keyDigits = 64 // of a key's id

// maxGeneration is the largest number that every JSON parser reads exactly.
const maxGeneration = 1<<53 - 1

// Validate reports the first rule of the format that the receipt breaks.
func (r *Receipt) Validate() error {
	return check(func(c *checker) {
		c.relay(r)
		c.lists(r)
		c.channels(r)
		for i := range r.Bundles {
			c.bundle(&r.Bundles[i])
		}
		for i := range r.Robots {
			c.robot(&r.Robots[i])
		}
		c.repositories("site", r.Site)
	})
}

// checker keeps the first thing that is wrong.
type checker struct{ err *FormatError }

func (c *checker) want(ok bool, format string, args ...any) {
	if !ok && c.err == nil {
		c.err = malformed(format, args...)
	}
}

func (c *checker) relay(r *Receipt) {
	c.want(relayPattern.MatchString(r.Relay.Name), "relay name %.140q: want 1 to 128 letters, digits and any of ._:/@-", r.Relay.Name)
	c.want(isHex(r.Relay.Key, keyDigits), "relay key %.80q: want the key's id, 64 hex digits", r.Relay.Key)
	c.time("made", r.Made)
	c.time("clock", r.Clock.Now)
	if r.Clock.Floor != "" {
		c.time("clock floor", r.Clock.Floor)
	}
	c.text("software", r.Software, 1)
	c.want(r.Generation <= maxGeneration, "generation %d", r.Generation)
	c.want(r.Store.Blobs >= 0 && r.Store.Bytes >= 0, "store of %d blobs with %d bytes", r.Store.Blobs, r.Store.Bytes)
	c.want(r.Room.Free >= 0 && r.Room.Total >= 0, "room: %d of %d bytes are free", r.Room.Free, r.Room.Total)
	c.checkpoint(r.Journal)
	c.want(len(r.Problems) <= MaxProblems, "%d problems, the limit is %d", len(r.Problems), MaxProblems)
	for _, p := range r.Problems {
		c.text("problem", p, 1)
	}
	c.want(len(r.Encoders) <= MaxEncoders, "%d encoders, the limit is %d", len(r.Encoders), MaxEncoders)
	for name, version := range r.Encoders {
		c.text("encoder", name, 1)
		c.text("encoder's version", version, 1)
	}
}

// lists checks that everything which is listed is listed once and in order: two readers must not find different things.
func (c *checker) lists(r *Receipt) {
	c.want(len(r.Bundles) <= MaxBundles, "%d bundles, the limit is %d", len(r.Bundles), MaxBundles)
	c.want(len(r.Channels) <= MaxChannels, "%d channels, the limit is %d", len(r.Channels), MaxChannels)
	c.want(len(r.Robots) <= MaxRobots, "%d robots, the limit is %d", len(r.Robots), MaxRobots)
	c.want(len(r.Site) <= MaxSite, "%d site repositories, the limit is %d", len(r.Site), MaxSite)
	c.want(ascending(r.Channels, func(x Channel) string { return x.Name }), "channels are not sorted")
	c.want(ascending(r.Bundles, func(x Bundle) string { return string(x.Digest) }), "bundles are not sorted")
	c.want(ascending(r.Robots, Robot.key), "robots are not sorted")
}

// Compare orders robots as a receipt lists them: by name, and an account before an address that looks like its name.
func (r Robot) Compare(other Robot) int { return strings.Compare(r.key(), other.key()) }

func (r Robot) key() string {
	if r.Anonymous {
		return r.Name + "\x01"
	}
	return r.Name + "\x00"
}

func (c *checker) channels(r *Receipt) {
	here := func(what string, d digest.Digest) {
		_, ok := r.Bundle(d)
		c.want(ok, "%s: bundle %.80q is not among the bundles", what, d)
	}
	inChannel := make(map[digest.Digest]bool)
	for _, ch := range r.Channels {
		what := "channel " + ch.Name
		c.want(channelPattern.MatchString(ch.Name), "channel %.140q: not a channel's name", ch.Name)
		here(what, ch.Active)
		once := map[digest.Digest]bool{ch.Active: true}
		for _, d := range ch.Previous {
			here(what, d)
			c.want(!once[d], "%s: bundle %.80q is named twice", what, d)
			once[d], inChannel[d] = true, true
		}
		inChannel[ch.Active] = true
	}
	c.digests("staged", r.Staged)
	for _, d := range r.Staged {
		here("staged", d)
		c.want(!inChannel[d], "staged: bundle %.80q is in a channel", d)
	}
	c.digests("pinned", r.Pinned)
	for _, d := range r.Pinned {
		here("pinned", d)
	}
	c.want(r.Generation > 0 || len(r.Channels) == 0, "generation 0 with channels")
}

func (c *checker) bundle(b *Bundle) {
	if c.err != nil {
		return
	}
	c.want(isSHA256(b.Digest), "bundle %.80q: want a SHA-256 digest", b.Digest)
	c.text("bundle's name", b.Name, 1)
	c.text("bundle's version", b.Version, 1)
	c.text("bundle's origin", b.From, 0)
	if b.Imported != "" {
		c.time("imported", b.Imported)
	}
	c.digests("missing", b.Missing)
	c.want(!b.Whole || len(b.Missing) == 0, "bundle %s is whole, and blobs are missing", b.Digest)
	c.want(ascending(b.Layers, func(l Layer) string { return string(l.Digest) }), "bundle %s: layers are not sorted", b.Digest)
	for _, l := range b.Layers {
		c.digest("layer", l.Digest)
		c.digest("diff-id", l.DiffID)
		_, gone := slices.BinarySearch(b.Missing, l.Digest)
		c.want(!gone, "bundle %s: layer %s is missing and listed", b.Digest, l.Digest)
	}
	c.repositories("bundle "+b.Name, b.Git)
}

func (c *checker) repositories(what string, all []Repository) {
	c.want(ascending(all, func(r Repository) string { return r.Name }), "%s: repositories are not sorted", what)
	for i := range all {
		repo := &all[i]
		c.text("repository", repo.Name, 1)
		c.want(ascending(repo.Refs, func(r Ref) string { return r.Name }), "repository %s: refs are not sorted", repo.Name)
		for _, ref := range repo.Refs {
			c.text("ref", ref.Name, 1)
			c.want(strings.HasPrefix(ref.Name, "refs/"), "repository %s: %.80q is not a full ref name", repo.Name, ref.Name)
			c.want(isHex(ref.OID, 40) || isHex(ref.OID, 64), "repository %s: ref %s: %.80q is not an object id", repo.Name, ref.Name, ref.OID)
		}
	}
}

func (c *checker) robot(r *Robot) {
	c.text("robot", r.Name, 1)
	c.time("robot's latest request", r.Seen)
	c.want(r.Generation <= maxGeneration && r.Pulls >= 0 && r.Bytes >= 0, "robot %.80q: generation %d, %d pulls, %d bytes", r.Name, r.Generation, r.Pulls, r.Bytes)
	if r.Last == nil {
		return
	}
	c.time("pull", r.Last.Time)
	c.text("pull's repository", r.Last.Repository, 0)
	c.text("pull's reference", r.Last.Reference, 0)
	if r.Last.Digest != "" {
		c.digest("pull", r.Last.Digest)
	}
}

func (c *checker) time(what, text string) {
	t, err := time.Parse(time.RFC3339, text)
	c.want(err == nil && t.UTC().Format(time.RFC3339) == text, "%s %.40q: want RFC 3339 in UTC with whole seconds", what, text)
}

func (c *checker) text(what, text string, least int) {
	c.want(len(text) >= least && len(text) <= MaxText && printable(text, ""), "%s: not a text of %d to %d printable bytes", what, least, MaxText)
}

func (c *checker) digest(what string, d digest.Digest) {
	c.want(isSHA256(d) || isSHA512(d), "%s %.150q: want a SHA-256 or SHA-512 digest", what, d)
}

// CheckDigest says why a digest of a blob cannot stand in a receipt.
func CheckDigest(d digest.Digest) error { return check(func(c *checker) { c.digest("digest", d) }) }

// CheckCheckpoint says why a journal's checkpoint cannot stand in a receipt; an empty one can.
func CheckCheckpoint(text string) error { return check(func(c *checker) { c.checkpoint(text) }) }

func check(fn func(*checker)) error {
	c := new(checker)
	fn(c)
	if c.err != nil {
		return c.err
	}
	return nil
}

func (c *checker) checkpoint(text string) {
	c.want(len(text) <= MaxCheckpoint, "journal: a checkpoint of %d bytes, the limit is %d", len(text), MaxCheckpoint)
	c.want(printable(text, "\n"), "journal: a checkpoint that is no text")
}

func (c *checker) digests(what string, all []digest.Digest) {
	c.want(ascending(all, func(d digest.Digest) string { return string(d) }), "%s: not sorted", what)
	for _, d := range all {
		c.digest(what, d)
	}
}

// printable keeps out what would move the cursor of the terminal on which a receipt is shown, or turn its text around.
func printable(s, also string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) && !strings.ContainsRune(also, c) })
}

// Text makes something that others wrote fit for a receipt: printable, and at most MaxText bytes.
func Text(s string) string {
	s = strings.Map(func(c rune) rune {
		if c == utf8.RuneError || !unicode.IsPrint(c) {
			return '?'
		}
		return c
	}, s)
	if len(s) <= MaxText {
		return s
	}
	const more = "…"
	cut := MaxText - len(more)
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + more
}

func ascending[T any](list []T, key func(T) string) bool {
	for i := 1; i < len(list); i++ {
		if key(list[i-1]) >= key(list[i]) {
			return false
		}
	}
	return true
}

func search[T any](list []T, key func(T) string, wanted string) (int, bool) {
	return slices.BinarySearchFunc(list, wanted, func(x T, k string) int { return strings.Compare(key(x), k) })
}
