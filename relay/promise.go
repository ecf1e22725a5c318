package relay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/internal/strictjson"
	"github.com/plimsoll/plimsoll/relay/state"
)

const (
	promisedFile    = "promised.json"
	promisedVersion = "plimsoll.promised.v1"
)

// promises are the releases that the last receipt which left the site said to be here: a transfer may be built on them,
// so they stay until a later receipt says otherwise.
type promises struct {
	APIVersion string          `json:"apiVersion"`
	Receipt    string          `json:"receipt"` // RFC 3339, when it was made
	Bundles    []digest.Digest `json:"bundles"` // sorted
}

func (r *Relay) promised(ctx context.Context) ([]digest.Digest, error) {
	doc, err := r.docs.Read(ctx, promisedFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var p promises
	if err == nil {
		err = strictjson.UnmarshalCanonical(doc.Data, &p)
	}
	if err == nil && p.APIVersion != promisedVersion {
		err = fmt.Errorf("apiVersion %q, this version reads %q", p.APIVersion, promisedVersion)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", promisedFile, err)
	}
	return p.Bundles, nil
}

// promise remembers what a receipt says to be here. The caller holds the lock.
func (r *Relay) promise(ctx context.Context, made string, bundles []digest.Digest) error {
	data, err := strictjson.Marshal(promises{APIVersion: promisedVersion, Receipt: made, Bundles: bundles})
	if err != nil {
		return err
	}
	if _, err := r.docs.Write(ctx, promisedFile, data, state.Any); err != nil {
		return fmt.Errorf("%s: %w", promisedFile, err)
	}
	return nil
}
