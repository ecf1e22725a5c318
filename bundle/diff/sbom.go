package diff

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/anchore/packageurl-go"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
	"github.com/plimsoll/plimsoll/sbom"
)

// maxSBOM bounds the layer that carries a document, in bytes: what an attestation may have.
const maxSBOM = attest.MaxAttestation

// lookSBOM compares the packages of the platforms that changed. Whether anybody signed the documents is not looked at.
func (c *comparer) lookSBOM(ctx context.Context, change *Change, p pair) error {
	for _, pc := range change.Platforms {
		if pc.Old == "" || pc.New == "" || pc.Platform == "unknown" {
			continue
		}
		old, err := c.a.packages(ctx, change, "A", p.old, pc.Platform, pc.Old)
		if err != nil {
			return err
		}
		now, err := c.b.packages(ctx, change, "B", p.now, pc.Platform, pc.New)
		if err != nil {
			return err
		}
		if old == nil || now == nil {
			continue
		}
		if d := comparePackages(old, now); len(d.Packages) > 0 {
			change.addPackages(pc.Platform, d)
		}
	}
	return nil
}

// addPackages joins platforms at which the same changed.
func (c *Change) addPackages(platform string, d PackageDiff) {
	for i := range c.SBOM {
		if reflect.DeepEqual(c.SBOM[i].Packages, d.Packages) && c.SBOM[i].Omitted == d.Omitted {
			c.SBOM[i].Platforms = append(c.SBOM[i].Platforms, platform)
			return
		}
	}
	d.Platforms = []string{platform}
	c.SBOM = append(c.SBOM, d)
}

// packageKey tells packages of one name apart by what manages them.
type packageKey struct{ name, kind string }

// packages gives the versions of each package in the SPDX document about a manifest; nil when there is none that can be
// read, of which an unreadable one leaves a note.
func (inv *inventory) packages(ctx context.Context, change *Change, side string, it bundle.Item, platform string, subject digest.Digest) (map[packageKey][]string, error) {
	candidates, err := inv.candidates(ctx, it)
	if err != nil {
		return nil, err
	}
	note := func(err error) {
		change.Notes = append(change.Notes, fmt.Sprintf("the SBOM of %s in %s cannot be read: %v", platform, side, err))
	}
	found, err := sbom.Brought(subject, candidates)
	if err != nil {
		note(err)
		return nil, nil
	}
	for _, f := range found {
		if f.Format != sbom.FormatSPDX {
			note(fmt.Errorf("its format is %s", f.Format))
			continue
		}
		if f.Layer.Size > maxSBOM {
			note(fmt.Errorf("%d bytes, the limit is %d", f.Layer.Size, maxSBOM))
			continue
		}
		data, err := bundle.ReadBlob(ctx, inv.source, f.Layer, maxSBOM)
		if err != nil {
			return nil, err
		}
		doc, err := parseDocument(data)
		if err != nil {
			note(err)
			continue
		}
		return versions(doc), nil
	}
	return nil, nil
}

// candidates are the referrers of an image's repository and the attestations in its index.
func (inv *inventory) candidates(ctx context.Context, it bundle.Item) ([]sbom.Candidate, error) {
	var all []sbom.Candidate
	add := func(d ocispec.Descriptor, tags ...string) error {
		raw, err := bundle.ReadBlob(ctx, inv.source, plain(d), bundle.MaxManifest)
		c := sbom.Candidate{Descriptor: d, Manifest: raw}
		for _, c.Tag = range tags {
			all = append(all, c)
		}
		if len(tags) == 0 {
			all = append(all, c)
		}
		return err
	}
	subjects := map[digest.Digest]bool{it.Descriptor.Digest: true}
	for _, p := range it.Platforms {
		subjects[p.Digest] = true
	}
	for _, r := range inv.bundle.Lock.Items {
		if r.Kind == bundle.KindReferrer && r.Repository == it.Repository && subjects[r.Subject] {
			if err := add(r.Descriptor, r.Tags...); err != nil {
				return nil, err
			}
		}
	}
	layer, ok := inv.bundle.IndexLayer(it)
	if !ok {
		return all, nil
	}
	raw, err := bundle.ReadBlob(ctx, inv.source, layer, bundle.MaxManifest)
	if err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := strictjson.Unmarshal(raw, &index); err != nil {
		return all, nil //nolint:nilerr // not an index: then no attestations stand in it
	}
	for _, m := range index.Manifests {
		if len(m.Annotations) > 0 && slices.ContainsFunc(inv.entries[it.Name], func(e ocispec.Descriptor) bool {
			return e.Digest == m.Digest && e.Size == m.Size
		}) {
			if err := add(m); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// parseDocument reads an SPDX document: bare, in an in-toto statement, in a DSSE envelope, or in a Sigstore bundle.
func parseDocument(data []byte) (*v2_3.Document, error) {
	if err := strictjson.Check(data); err != nil {
		return nil, err
	}
	var wrapped struct {
		SPDXVersion string `json:"spdxVersion"`
		Envelope    *struct {
			Payload []byte `json:"payload"`
		} `json:"dsseEnvelope"` // of a Sigstore bundle
		Payload   []byte          `json:"payload"`   // of an envelope
		Predicate json.RawMessage `json:"predicate"` // of a statement
	}
	if err := json.Unmarshal(data, &wrapped); err != nil {
		return nil, err
	}
	switch {
	case wrapped.SPDXVersion != "":
		return sbom.ParseSPDX(data)
	case wrapped.Envelope != nil:
		return parseStatement(wrapped.Envelope.Payload)
	case wrapped.Payload != nil:
		return parseStatement(wrapped.Payload)
	case wrapped.Predicate != nil:
		return parseStatement(data)
	}
	return nil, errors.New("neither an SPDX document nor a statement with one")
}

func parseStatement(data []byte) (*v2_3.Document, error) {
	if err := strictjson.Check(data); err != nil {
		return nil, err
	}
	var statement struct {
		Predicate json.RawMessage `json:"predicate"`
	}
	if err := json.Unmarshal(data, &statement); err != nil {
		return nil, err
	}
	return sbom.ParseSPDX(statement.Predicate)
}

// versions gives the sorted versions of each package, without the image that the document describes: its version is its
// digest.
func versions(doc *v2_3.Document) map[packageKey][]string {
	described := make(map[common.ElementID]bool)
	for _, r := range doc.Relationships {
		switch {
		case r.Relationship == common.TypeRelationshipDescribe && r.RefA.ElementRefID == doc.SPDXIdentifier:
			described[r.RefB.ElementRefID] = true
		case r.Relationship == common.TypeRelationshipDescribeBy && r.RefB.ElementRefID == doc.SPDXIdentifier:
			described[r.RefA.ElementRefID] = true
		}
	}
	all := make(map[packageKey][]string)
	for _, p := range doc.Packages {
		if described[p.PackageSPDXIdentifier] {
			continue
		}
		key := packageKey{name: cut(p.PackageName), kind: packageType(p)}
		all[key] = append(all[key], cut(p.PackageVersion))
	}
	for key, list := range all {
		slices.Sort(list)
		all[key] = slices.Compact(list)
	}
	return all
}

func packageType(p *v2_3.Package) string {
	for _, ref := range p.PackageExternalReferences {
		if ref != nil && ref.RefType == common.TypePackageManagerPURL {
			if purl, err := packageurl.FromString(ref.Locator); err == nil {
				return purl.Type
			}
		}
	}
	return ""
}

func comparePackages(old, now map[packageKey][]string) PackageDiff {
	var d PackageDiff
	keys := maps.Clone(old)
	maps.Copy(keys, now)
	for key := range keys {
		p := Package{Name: key.name, Type: key.kind, Status: Changed, Old: without(old[key], now[key]), New: without(now[key], old[key])}
		switch {
		case len(p.Old)+len(p.New) == 0:
			continue
		case len(old[key]) == 0:
			p.Status = Added
		case len(now[key]) == 0:
			p.Status = Removed
		}
		d.Packages = append(d.Packages, p)
	}
	slices.SortFunc(d.Packages, func(a, b Package) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Type, b.Type)) })
	if over := len(d.Packages) - MaxNames; over > 0 {
		d.Packages, d.Omitted = d.Packages[:MaxNames], over
	}
	return d
}

// without gives what is in list and not in other.
func without(list, other []string) []string {
	var left []string
	for _, v := range list {
		if !slices.Contains(other, v) {
			left = append(left, v)
		}
	}
	return left
}
