// Package receipt is what a relay says of itself, signed: which releases are at the site, which of them it serves, what
// it has of them, and what its robots pulled. Who builds the next transfer reads it and leaves out what is there.
//
// A receipt is an in-toto Statement v1 in a DSSE envelope, in one canonical encoding; bundle/FORMAT.md describes it.
// Reading one is bounded and needs neither a network nor a clock. Only Verify makes a Verified.
package receipt

import (
	"fmt"

	"github.com/opencontainers/go-digest"
)

// PredicateType is the in-toto predicate type of a receipt.
const PredicateType = "https://plimsoll.dev/attestation/receipt/v1"

// The limits of a receipt. Bytes and values are counted before anything is decoded.
const (
	MaxReceipt    = 64 << 20 // bytes of the envelope
	MaxValues     = 4 << 20  // JSON values in the statement
	MaxObjects    = 1 << 19  // JSON objects in the statement
	MaxBundles    = 1023     // with the relay itself they are the subjects, of which in-toto's verifiers take 1,024
	MaxChannels   = 1024     //
	MaxRobots     = 65_536   //
	MaxSite       = 1024     // site repositories
	MaxEncoders   = 256      //
	MaxProblems   = 256      //
	MaxText       = 1024     // bytes of a text
	MaxCheckpoint = 16 << 10 // bytes of a journal's checkpoint
)

// Receipt is the predicate of the statement. Lists are sorted by their first field unless they say otherwise, and name
// nothing twice; what is empty is absent.
type Receipt struct {
	Relay      Relay             `json:"relay"`              // who says it
	Made       string            `json:"made"`               // RFC 3339, UTC, whole seconds: the best time that the relay had
	Software   string            `json:"software"`           // version of plimsoll-relay
	Promise    bool              `json:"promise"`            // the bundles stay until the relay makes another receipt that promises
	Generation uint64            `json:"generation"`         // that is served; 0 when nothing was ever active
	Channels   []Channel         `json:"channels,omitempty"` //
	Staged     []digest.Digest   `json:"staged,omitempty"`   // bundles that are here and in no channel
	Pinned     []digest.Digest   `json:"pinned,omitempty"`   // bundles that stay until somebody unpins them
	Bundles    []Bundle          `json:"bundles,omitempty"`  // every bundle that is here; by digest
	Journal    string            `json:"journal,omitempty"`  // the journal's checkpoint: a signed note
	Store      Store             `json:"store"`              //
	Room       Room              `json:"room"`               //
	Encoders   map[string]string `json:"encoders,omitempty"` // that can rebuild compressed layers: name to version
	Clock      Clock             `json:"clock"`              //
	Robots     []Robot           `json:"robots,omitempty"`   // who asked for something; by name
	Site       []Repository      `json:"site,omitempty"`     // the site's own Git repositories
	Problems   []string          `json:"problems,omitempty"` // what the relay could not find out, in its words; in no order
}

// Relay names the relay.
type Relay struct {
	Name string `json:"name"`
	Key  string `json:"key"` // attest.KeyID of the key that signs the receipt
}

// Channel is one sequence of releases.
type Channel struct {
	Name     string          `json:"name"`
	Active   digest.Digest   `json:"active"`             // the bundle that is served
	Previous []digest.Digest `json:"previous,omitempty"` // those served before, the latest first
}

// Bundle is a release that is here.
type Bundle struct {
	Digest   digest.Digest   `json:"digest"` // of the bundle's index
	Name     string          `json:"name"`
	Version  string          `json:"version"`
	Imported string          `json:"imported,omitempty"` // RFC 3339, UTC, whole seconds, by the relay's clock
	From     string          `json:"from,omitempty"`     // the reference that it was imported from
	Whole    bool            `json:"whole"`              // every blob of it is in the store, with its size
	Missing  []digest.Digest `json:"missing,omitempty"`  // blobs that are not
	Layers   []Layer         `json:"layers,omitempty"`   // of its images, those that are in the store; by digest
	Git      []Repository    `json:"git,omitempty"`      // of its Git repositories
}

// Layer is a layer of an image.
type Layer struct {
	Digest digest.Digest `json:"digest"` // of the blob
	DiffID digest.Digest `json:"diffId"` // of what it is uncompressed, as the image's config says
}

// Repository is a Git repository with the tips of its refs.
type Repository struct {
	Name string `json:"name"` // github.com/acme/robot-deployment; of the site: site-overrides
	Refs []Ref  `json:"refs,omitempty"`
}

// Ref is a full ref name and the object that it points to.
type Ref struct {
	Name string `json:"name"`
	OID  string `json:"oid"` // 40 or 64 lower-case hex digits
}

// Store is what the relay stores, whatever it is for.
type Store struct {
	Blobs int64 `json:"blobs"`
	Bytes int64 `json:"bytes"`
}

// Room is the disk of the data folder.
type Room struct {
	Free  int64 `json:"free"` // bytes that the relay may still write
	Total int64 `json:"total"`
}

// Clock is what the relay knows of the time.
type Clock struct {
	Now   string `json:"now"`             // RFC 3339, UTC, whole seconds: what the box's clock says
	Floor string `json:"floor,omitempty"` // the newest time that was signed by somebody whom the relay trusts
}

// Robot is one that the relay answered.
type Robot struct {
	Name       string `json:"name"`                // of its account; an anonymous one's address
	Anonymous  bool   `json:"anonymous,omitempty"` //
	Seen       string `json:"seen"`                // RFC 3339, UTC, whole seconds: its latest request
	Generation uint64 `json:"generation"`          // that the latest answer came from
	Pulls      int64  `json:"pulls"`               // in all
	Bytes      int64  `json:"bytes"`               // of all answers
	Last       *Pull  `json:"last,omitempty"`      // absent when it is long ago
}

// Pull is an image that a robot got, or a fetch from a Git repository.
type Pull struct {
	Time       string        `json:"time"` // RFC 3339, UTC, whole seconds
	Repository string        `json:"repository"`
	Reference  string        `json:"reference,omitempty"` // the tag, if it asked by tag
	Digest     digest.Digest `json:"digest,omitempty"`    // of the manifest
}

// Bundle finds a bundle by its digest.
func (r *Receipt) Bundle(d digest.Digest) (Bundle, bool) {
	i, found := search(r.Bundles, func(b Bundle) string { return string(b.Digest) }, string(d))
	if !found {
		return Bundle{}, false
	}
	return r.Bundles[i], true
}

// FormatError says that something is not a receipt, or one that breaks a rule of the format.
type FormatError struct {
	Reason string
	Err    error // the cause, if there is one
}

func (e *FormatError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("receipt: %s: %v", e.Reason, e.Err)
	}
	return "receipt: " + e.Reason
}

// Unwrap gives the cause.
func (e *FormatError) Unwrap() error { return e.Err }

func malformed(format string, args ...any) *FormatError {
	return &FormatError{Reason: fmt.Sprintf(format, args...)}
}
