package relay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/internal/durable"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

const (
	releasesDir   = "releases"
	recordVersion = "plimsoll.release-record.v1"
)

// Record says how a release came here. It is written when all bytes of the release are in the store, before the
// activation; without a place in active.json it serves nothing.
type Record struct {
	APIVersion string             `json:"apiVersion"`
	Name       string             `json:"name"`
	Version    string             `json:"version"`
	Bundle     ocispec.Descriptor `json:"bundle"`     // of the index: media type, digest and size only
	Imported   string             `json:"imported"`   // RFC 3339, the relay's own clock
	From       string             `json:"from"`       // the reference that it was imported from
	Signatures []RecordSignature  `json:"signatures"` // those that convinced the relay
	Beside     []BesideManifest   `json:"beside"`     // signatures and attestations of the bundle itself, in the store
}

// RecordSignature is one accepted signature.
type RecordSignature struct {
	KeyID    string        `json:"keyid"`
	Form     attest.Form   `json:"form"`
	Manifest digest.Digest `json:"manifest"`
}

// BesideManifest is a manifest that refers to the bundle's index.
type BesideManifest struct {
	Manifest ocispec.Descriptor `json:"manifest"`
	Tag      string             `json:"tag,omitempty"`
}

func (r *Relay) recordPath(d digest.Digest) string {
	return filepath.Join(r.dir, releasesDir, d.Encoded()+".json")
}

func (r *Relay) writeRecord(rec Record) error {
	data, err := strictjson.Marshal(rec)
	if err != nil {
		return err
	}
	return durable.WriteFile(r.recordPath(rec.Bundle.Digest), data, 0o644)
}

// Record reads how a release came here.
func (r *Relay) Record(d digest.Digest) (Record, error) {
	var rec Record
	if err := d.Validate(); err != nil {
		return rec, fmt.Errorf("release %q: %w", d, err)
	}
	data, err := os.ReadFile(r.recordPath(d))
	if err != nil {
		return rec, fmt.Errorf("release %s: %w", d, err)
	}
	if err := strictjson.UnmarshalCanonical(data, &rec); err != nil {
		return rec, fmt.Errorf("release record %s: %w", d, err)
	}
	if rec.APIVersion != recordVersion || rec.Bundle.Digest != d {
		return rec, fmt.Errorf("release record %s: apiVersion %q for %s", d, rec.APIVersion, rec.Bundle.Digest)
	}
	return rec, nil
}

// records lists all staged releases, active or not.
func (r *Relay) records() ([]Record, error) {
	entries, err := os.ReadDir(filepath.Join(r.dir, releasesDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Record
	for _, e := range entries {
		hex, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || strings.HasPrefix(hex, ".") {
			continue // what a crash left of a half-written record
		}
		rec, err := r.Record(digest.NewDigestFromEncoded(digest.SHA256, hex))
		if err != nil {
			return nil, err
		}
		all = append(all, rec)
	}
	return all, nil
}
