// Package pins is what the sources in a bundle.yaml resolve to: bundle.lock.json beside it, so that a build needs to
// resolve no tag and no branch.
package pins

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// Version is the value of Pins.APIVersion.
const Version = "plimsoll.pins.v1"

// MaxSize bounds the bytes of a pins file.
const MaxSize = 16 << 20

// Pins are sorted by kind, source and place.
type Pins struct {
	APIVersion string `json:"apiVersion"` // Version
	Items      []Pin  `json:"items"`
}

// Pin is what one source resolved to.
type Pin struct {
	Kind     bundle.Kind         `json:"kind"`
	Source   string              `json:"source"`             // as it is written in bundle.yaml
	Place    string              `json:"place,omitempty"`    // of a Git repository: where the site serves it
	Digest   digest.Digest       `json:"digest,omitempty"`   // of the manifest; of a classic chart its .tgz
	Version  string              `json:"version,omitempty"`  // of a classic chart
	Git      *Git                `json:"git,omitempty"`      //
	Vendored []bundle.Dependency `json:"vendored,omitempty"` // of a chart folder
}

// Git is the state of a repository.
type Git struct {
	Head string          `json:"head"`
	Refs []bundle.GitRef `json:"refs"`
}

// MissingError says that a source has no pin.
type MissingError struct {
	Kind   bundle.Kind
	Source string
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s %s is not in bundle.lock.json", e.Kind, e.Source)
}

// ChangedError says that a source has other bytes under the name that was pinned.
type ChangedError struct {
	Source    string
	Want, Got digest.Digest
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("%s is %s now, pinned is %s", e.Source, e.Got, e.Want)
}

// Find gives the pin of a source; place is "" for all but Git repositories.
func (p *Pins) Find(kind bundle.Kind, source, place string) (Pin, error) {
	for _, pin := range p.Items {
		if pin.Kind == kind && pin.Source == source && pin.Place == place {
			return pin, nil
		}
	}
	return Pin{}, &MissingError{Kind: kind, Source: source}
}

// Sort puts the pins in their order and drops repetitions.
func (p *Pins) Sort() {
	compare := func(a, b Pin) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Source, b.Source), cmp.Compare(a.Place, b.Place))
	}
	slices.SortStableFunc(p.Items, compare)
	p.Items = slices.CompactFunc(p.Items, func(a, b Pin) bool { return compare(a, b) == 0 })
}

// FromLock gives the pins by which a bundle is built again.
func FromLock(l *bundle.Lock) *Pins {
	p := &Pins{APIVersion: Version}
	for _, it := range l.Items {
		pin := Pin{Kind: it.Kind, Source: it.Source, Digest: it.Descriptor.Digest, Vendored: it.Vendored}
		switch it.Kind {
		case bundle.KindReferrer, bundle.KindFile:
			continue
		case bundle.KindGit:
			pin.Digest, pin.Place, pin.Git = "", it.Repository, &Git{Head: it.Git.Head, Refs: it.Git.Refs}
		case bundle.KindChart:
			if strings.HasPrefix(it.Source, "oci://") {
				break
			}
			pin.Digest = ""
			if len(it.Tags) > 0 {
				pin.Version = strings.ReplaceAll(it.Tags[0], "_", "+")
			}
		}
		p.Items = append(p.Items, pin)
	}
	p.Sort()
	return p
}

// Encode gives the bytes of the file: indented, for people who read its differences.
func (p *Pins) Encode() ([]byte, error) {
	data, err := strictjson.Marshal(p)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, data, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// Parse reads a pins file.
func Parse(data []byte) (*Pins, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(data), MaxSize)
	}
	var plain bytes.Buffer
	if err := json.Compact(&plain, data); err != nil {
		return nil, err
	}
	var p Pins
	if err := strictjson.UnmarshalCanonical(plain.Bytes(), &p); err != nil {
		return nil, err
	}
	if p.APIVersion != Version {
		return nil, fmt.Errorf("apiVersion %q, this version reads %q", p.APIVersion, Version)
	}
	for _, pin := range p.Items {
		if err := pin.validate(); err != nil {
			return nil, fmt.Errorf("%s %q: %w", pin.Kind, pin.Source, err)
		}
	}
	p.Sort()
	return &p, nil
}

func (p Pin) validate() error {
	if p.Source == "" {
		return errors.New("no source")
	}
	if p.Digest != "" {
		if err := p.Digest.Validate(); err != nil {
			return fmt.Errorf("digest %q: %w", p.Digest, err)
		}
	}
	if (p.Kind == bundle.KindGit) != (p.Git != nil) {
		return errors.New("git does not fit its kind")
	}
	if p.Git == nil {
		return nil
	}
	if err := bundle.CheckGitRef(p.Git.Head); err != nil {
		return err
	}
	return bundle.CheckGitRefs(p.Git.Refs)
}

// Change is a source whose pin is another one.
type Change struct {
	Kind   bundle.Kind `json:"kind"`
	Source string      `json:"source"`
	What   string      `json:"what,omitempty"` // the ref of a Git repository, the name of a dependency
	Old    string      `json:"old,omitempty"`  // empty: new
	New    string      `json:"new,omitempty"`  // empty: gone
}

// Compare lists what is different, sorted.
func Compare(old, now *Pins) []Change {
	type key struct {
		kind                bundle.Kind
		source, place, what string
	}
	flat := func(p *Pins) map[key]string {
		m := make(map[key]string)
		if p == nil {
			return m
		}
		for _, pin := range p.Items {
			k := key{kind: pin.Kind, source: pin.Source, place: pin.Place}
			if text := strings.TrimSpace(pin.Version + " " + pin.Digest.String()); text != "" {
				m[k] = text
			}
			for _, d := range pin.Vendored {
				k.what = d.Name
				m[k] = d.Version + " " + d.Digest.String()
			}
			if pin.Git != nil {
				k.what = "HEAD"
				m[k] = pin.Git.Head
				for _, ref := range pin.Git.Refs {
					k.what = ref.Name
					m[k] = ref.OID
				}
			}
		}
		return m
	}
	a, b := flat(old), flat(now)
	var changes []Change
	for k, v := range a {
		if b[k] != v {
			changes = append(changes, Change{k.kind, k.source, k.what, v, b[k]})
		}
	}
	for k, v := range b {
		if _, ok := a[k]; !ok {
			changes = append(changes, Change{k.kind, k.source, k.what, "", v})
		}
	}
	slices.SortFunc(changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Source, b.Source), cmp.Compare(a.What, b.What), cmp.Compare(a.New, b.New))
	})
	return changes
}

// Keep takes the pins of an earlier file for the sources that it has.
func (p *Pins) Keep(earlier *Pins) {
	if earlier == nil {
		return
	}
	for i, pin := range p.Items {
		if old, err := earlier.Find(pin.Kind, pin.Source, pin.Place); err == nil {
			p.Items[i] = old
		}
	}
}
