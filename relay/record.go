package relay

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/internal/strictjson"
	"github.com/plimsoll/plimsoll/relay/state"
)

const (
	releasesDir   = "releases"
	recordVersion = "plimsoll.release-record.v2"

	maxCAFile = 4096 // bytes, as the kernel takes a path
)

// Record says how a release came here. It is written when all bytes of the release are in the store, before the
// activation; without a place in active.json it serves nothing.
type Record struct {
	APIVersion string             `json:"apiVersion"`
	Name       string             `json:"name"`
	Version    string             `json:"version"`
	Channel    string             `json:"channel"`             // that it was imported for
	Bundle     ocispec.Descriptor `json:"bundle"`              // of the index: media type, digest and size only
	Imported   string             `json:"imported"`            // RFC 3339, the relay's own clock
	From       string             `json:"from"`                // the reference that it was imported from
	PlainHTTP  bool               `json:"plainHTTP,omitempty"` // how it was reached: without TLS
	CAFile     string             `json:"caFile,omitempty"`    // likewise: the CA of its registry, a whole path
	Signatures []RecordSignature  `json:"signatures"`          // those that convinced the relay
	Beside     []BesideManifest   `json:"beside"`              // signatures and attestations of the bundle itself, in the store
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

// Release is what the record is about, as active.json names it.
func (rec Record) Release() Release {
	return Release{Name: rec.Name, Version: rec.Version, Bundle: rec.Bundle}
}

// Origin is a place that a release came from, and how it is reached. Credentials are no part of it.
type Origin struct {
	From      string // as media.OpenSource takes it
	PlainHTTP bool
	CAFile    string
}

// Origin is where the release came from.
func (rec Record) Origin() Origin {
	return Origin{From: rec.From, PlainHTTP: rec.PlainHTTP, CAFile: rec.CAFile}
}

// isRegistry tells whether a reference is one of a registry, as media.OpenSource takes it.
func isRegistry(ref string) bool { return strings.HasPrefix(ref, "oci://") }

func recordName(d digest.Digest) string { return releasesDir + "/" + d.Encoded() + ".json" }

func (r *Relay) writeRecord(ctx context.Context, rec Record) error {
	data, err := strictjson.Marshal(rec)
	if err != nil {
		return err
	}
	_, err = r.docs.Write(ctx, recordName(rec.Bundle.Digest), data, state.Any)
	return err
}

// Record reads how a release came here.
func (r *Relay) Record(ctx context.Context, d digest.Digest) (Record, error) {
	var rec Record
	if err := d.Validate(); err != nil {
		return rec, fmt.Errorf("release %q: %w", d, err)
	}
	doc, err := r.docs.Read(ctx, recordName(d))
	if err != nil {
		return rec, fmt.Errorf("release %s: %w", d, err)
	}
	if err := strictjson.UnmarshalCanonical(doc.Data, &rec); err != nil {
		return rec, fmt.Errorf("release record %s: %w", d, err)
	}
	if rec.APIVersion != recordVersion || rec.Bundle.Digest != d {
		return rec, fmt.Errorf("release record %s: apiVersion %q for %s", d, rec.APIVersion, rec.Bundle.Digest)
	}
	if rec.CAFile != "" {
		if err := checkCAFile(rec.CAFile); err != nil {
			return rec, fmt.Errorf("release record %s: caFile %.80q: %w", d, rec.CAFile, err)
		}
	}
	return rec, nil
}

func checkCAFile(path string) error {
	if !filepath.IsAbs(path) || len(path) > maxCAFile {
		return fmt.Errorf("want a whole path of at most %d bytes", maxCAFile)
	}
	return nil
}

// records lists all staged releases, active or not.
func (r *Relay) records(ctx context.Context) ([]Record, error) {
	names, err := r.docs.List(ctx, releasesDir)
	if err != nil {
		return nil, err
	}
	var all []Record
	for _, name := range names {
		hex, ok := strings.CutSuffix(path.Base(name), ".json")
		if !ok {
			continue
		}
		rec, err := r.Record(ctx, digest.NewDigestFromEncoded(digest.SHA256, hex))
		if err != nil {
			return nil, err
		}
		all = append(all, rec)
	}
	return all, nil
}
