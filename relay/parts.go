package relay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/durable"
	"github.com/plimsoll/plimsoll/registry"
)

// derivedDir has what can be computed from the store again at any time. It may be removed.
const derivedDir = "derived"

// partReaders bounds how many releases are read at one time.
const partReaders = 4

// part is what a release adds to what is served.
type part struct {
	*registry.Part
	git []gitPart
}

// gitPart is a Git item of a release.
type gitPart struct {
	Name       string             `json:"name"`
	Repository string             `json:"repository"`
	Descriptor ocispec.Descriptor `json:"descriptor"`
	Git        bundle.Git         `json:"git"`
}

// partMagic begins a part's file. Behind it stand the length of the registry's part (8 bytes, big-endian), the registry's
// part, the Git items as JSON, and the SHA-256 of everything before.
const partMagic = "plimsoll.release-part.v1\n"

var errPart = errors.New("the file of a release's part is damaged")

func (p *part) encode() ([]byte, error) {
	images, err := p.MarshalBinary()
	if err != nil {
		return nil, err
	}
	git, err := json.Marshal(p.git)
	if err != nil {
		return nil, err
	}
	data := binary.BigEndian.AppendUint64([]byte(partMagic), uint64(len(images)))
	data = append(append(data, images...), git...)
	sum := sha256.Sum256(data)
	return append(data, sum[:]...), nil
}

func parsePart(data []byte) (*part, error) {
	body, ok := bytes.CutPrefix(data, []byte(partMagic))
	end := len(data) - sha256.Size
	if !ok || len(body) < 8+sha256.Size || sha256.Sum256(data[:end]) != [sha256.Size]byte(data[end:]) {
		return nil, errPart
	}
	n, body := binary.BigEndian.Uint64(body), body[8:len(body)-sha256.Size]
	if n > uint64(len(body)) {
		return nil, errPart
	}
	p := &part{Part: new(registry.Part)}
	if err := p.UnmarshalBinary(body[:n]); err != nil {
		return nil, err
	}
	return p, json.Unmarshal(body[n:], &p.git)
}

// part gives what a release adds to what is served. It is kept beside the store, because reading the lock and every
// manifest of fifty kept releases would make each start slow; a file that is missing or damaged is made anew.
func (r *Relay) part(ctx context.Context, release Release) (*part, error) {
	path := filepath.Join(r.dir, derivedDir, release.Bundle.Digest.Encoded()+".part")
	if data, err := os.ReadFile(path); err == nil {
		if p, err := parsePart(data); err == nil && p.Bundle() == release.Bundle.Digest {
			return p, nil
		}
	}
	b, err := bundle.Load(ctx, r.store, release.Bundle)
	if err != nil {
		return nil, err
	}
	p := new(part)
	if p.Part, err = registry.Describe(ctx, r.store, b); err != nil {
		return nil, err
	}
	for _, it := range b.Lock.Items {
		if it.Kind == bundle.KindGit {
			p.git = append(p.git, gitPart{Name: it.Name, Repository: it.Repository, Descriptor: it.Descriptor, Git: *it.Git})
		}
	}
	data, err := p.encode()
	if err != nil {
		return nil, err
	}
	// A disk that is full costs time at the next start and nothing else.
	_ = durable.WriteFile(path, data, 0o644)
	return p, nil
}

// parts gives the parts of releases in their order, and for each that cannot be read the error in its place.
func (r *Relay) parts(ctx context.Context, releases []Release) ([]*part, []error) {
	parts, errs := make([]*part, len(releases)), make([]error, len(releases))
	var g errgroup.Group
	g.SetLimit(partReaders)
	for i, release := range releases {
		g.Go(func() error {
			parts[i], errs[i] = r.part(ctx, release)
			return nil
		})
	}
	_ = g.Wait() // each error has its place
	return parts, errs
}
