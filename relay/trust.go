package relay

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/internal/durable"
)

const trustDir = "trust"

// NoTrustError says that the relay was told nobody's key yet, so that it can accept nothing.
type NoTrustError struct{}

func (*NoTrustError) Error() string { return "no release key is trusted here" }

// TrustKey adds a public key in PEM to those whose signature makes a release acceptable, and gives its id.
func (r *Relay) TrustKey(ctx context.Context, pem []byte) (string, error) {
	keys, err := attest.ParsePublicKeys(pem)
	if err != nil {
		return "", fmt.Errorf("trusted key: %w", err)
	}
	if len(keys) != 1 {
		return "", fmt.Errorf("trusted key: %d keys in the file, want one", len(keys))
	}
	id := attest.KeyID(keys[0])
	if err := r.record(ctx, "trust-key", trustedKey{KeyID: id}); err != nil {
		return "", err
	}
	if err := durable.WriteFile(filepath.Join(r.dir, trustDir, id+".pub"), pem, 0o644); err != nil {
		return "", fmt.Errorf("trusted key %s: %w", id, err)
	}
	return id, nil
}

// trustedKey is what the journal says of a key that is trusted from now on.
type trustedKey struct {
	KeyID string `json:"keyid"`
}

// TrustedKeys reads the release keys that this relay accepts.
func (r *Relay) TrustedKeys() ([]crypto.PublicKey, error) {
	entries, err := os.ReadDir(filepath.Join(r.dir, trustDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []crypto.PublicKey
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".pub") || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		pem, err := os.ReadFile(filepath.Join(r.dir, trustDir, e.Name()))
		if err != nil {
			return nil, err
		}
		keys, err := attest.ParsePublicKeys(pem)
		if err != nil {
			return nil, fmt.Errorf("trusted key %s: %w", e.Name(), err)
		}
		all = append(all, keys...)
	}
	return all, nil
}

func (r *Relay) trustedKeyIDs() ([]string, error) {
	keys, err := r.TrustedKeys()
	if err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(keys))
	for _, key := range keys {
		ids = append(ids, attest.KeyID(key))
	}
	return ids, nil
}
