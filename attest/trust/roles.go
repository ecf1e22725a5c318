package trust

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/bundle"
)

// MaxBundleIndex bounds the bytes of a bundle index that a channel lists.
const MaxBundleIndex = bundle.MaxManifest

// RootKeys gives the keys of the four top-level roles. It fails with *FormatError, *KeysError or *KeyReuseError.
func RootKeys(file string, root *metadata.RootType) (map[string]Keys, error) {
	roles := make(map[string]Keys)
	for _, name := range metadata.TOP_LEVEL_ROLE_NAMES {
		role := root.Roles[name]
		if role == nil {
			return nil, formatErrorf(file, "no role %s", name)
		}
		keys, err := keysOf(name, root.Keys, role.KeyIDs, role.Threshold)
		if err != nil {
			return nil, err
		}
		roles[name] = keys
	}
	return roles, CheckApart(roles)
}

// DelegatedKeys gives the keys of the roles to which the top-level targets delegate: channels, attestation, revocation.
// Other roles are for other readers, and mean nothing here.
func DelegatedKeys(targets *metadata.TargetsType) (map[string]Keys, error) {
	roles := make(map[string]Keys)
	if targets.Delegations == nil {
		return roles, nil
	}
	if targets.Delegations.SuccinctRoles != nil {
		return nil, formatErrorf(FileTargets, "succinct roles")
	}
	if n := len(targets.Delegations.Roles); n > MaxChannels+2 {
		return nil, formatErrorf(FileTargets, "%d roles, the limit is %d", n, MaxChannels+2)
	}
	seen := make(map[string]struct{})
	for _, role := range targets.Delegations.Roles {
		if _, dup := seen[role.Name]; dup {
			return nil, formatErrorf(FileTargets, "role %s twice", shorten(role.Name))
		}
		seen[role.Name] = struct{}{}
		paths, ok := PathsOf(role.Name)
		if !ok {
			continue
		}
		if len(role.PathHashPrefixes) > 0 || !slices.Equal(role.Paths, paths) {
			return nil, formatErrorf(FileTargets, "role %s: paths %q, want %q", role.Name, role.Paths, paths)
		}
		keys, err := keysOf(role.Name, targets.Delegations.Keys, role.KeyIDs, role.Threshold)
		if err != nil {
			return nil, err
		}
		roles[role.Name] = keys
	}
	return roles, CheckApart(roles)
}

// PathsOf gives what a delegated role may list, and whether there is such a role. The path of attestation and revocation
// is a name only: their keys sign statements, and no metadata.
func PathsOf(role string) ([]string, bool) {
	switch role {
	case RoleAttestation:
		return []string{"attestations/*"}, true
	case RoleRevocation:
		return []string{"revocations/*"}, true
	}
	channel, ok := strings.CutPrefix(role, channelPrefix)
	return []string{TargetPath(channel)}, ok && CheckChannelName(channel) == nil
}

// keysOf looks up the keys of a role. A key's id must be the hash that TUF defines, so that a key has one id; the same
// key twice, under whatever id, could be counted twice.
func keysOf(role string, known map[string]*metadata.Key, ids []string, threshold int) (Keys, error) {
	keys := Keys{Threshold: threshold}
	if len(ids) > MaxKeys {
		return Keys{}, &KeysError{Role: role, Reason: fmt.Sprintf("%d keys, the limit is %d", len(ids), MaxKeys)}
	}
	for _, id := range ids {
		key := known[id]
		if key == nil {
			return Keys{}, &KeysError{Role: role, Reason: fmt.Sprintf("key %s is not in the list of keys", shorten(id))}
		}
		if want, err := key.ID(); err != nil || want != id {
			return Keys{}, &KeysError{Role: role, Reason: fmt.Sprintf("key %s has the id of another key", shorten(id))}
		}
		pub, err := publicKey(key)
		if err != nil {
			return Keys{}, &KeysError{Role: role, Reason: fmt.Sprintf("key %s: %v", shorten(id), err)}
		}
		keys.Public = append(keys.Public, pub)
		keys.tuf = append(keys.tuf, id)
	}
	if len(keys.Public) == 0 {
		return Keys{}, &KeysError{Role: role, Reason: "no key"}
	}
	return keys, keys.Check(role)
}

// publicKey accepts the two kinds of keys for which there is one way to verify.
func publicKey(key *metadata.Key) (crypto.PublicKey, error) {
	want := ""
	switch key.Type {
	case metadata.KeyTypeEd25519:
		want = metadata.KeySchemeEd25519
	case metadata.KeyTypeECDSA_SHA2_P256, metadata.KeyTypeECDSA_SHA2_P256_COMPAT:
		want = metadata.KeySchemeECDSA_SHA2_P256
	}
	if want == "" || key.Scheme != want {
		return nil, fmt.Errorf("type %s, scheme %s: want ECDSA P-256 or Ed25519", shorten(key.Type), shorten(key.Scheme))
	}
	if len(key.Value.PublicKey) > 1024 {
		return nil, fmt.Errorf("%d bytes", len(key.Value.PublicKey))
	}
	pub, err := key.ToPublicKey()
	if err != nil {
		return nil, err
	}
	if attest.KeyID(pub) == "" {
		return nil, errors.New("not an ECDSA P-256 or Ed25519 key")
	}
	return pub, nil
}

// hands says who holds the keys of a role. One key may have several roles of the same hands, and none of two.
func hands(role string) string {
	switch role {
	case RoleRoot, RoleTargets:
		return "offline"
	case RoleTimestamp, RoleSnapshot:
		return "export"
	case RoleAttestation, RoleRevocation:
		return role
	}
	return "release"
}

// CheckApart fails with *KeyReuseError when one key has two roles that must be apart: the offline roles (root, targets),
// the export roles (timestamp, snapshot), the channels, attestation, and revocation. A stolen export key must not be half
// of an offline threshold, and what attests must not release.
func CheckApart(roles map[string]Keys) error {
	owner := make(map[string]string)
	for _, role := range slices.Sorted(maps.Keys(roles)) {
		for _, id := range roles[role].IDs() {
			if other, ok := owner[id]; ok && hands(other) != hands(role) {
				return &KeyReuseError{KeyID: id, Roles: [2]string{other, role}}
			}
			owner[id] = role
		}
	}
	return nil
}

// Signers are the attest.KeyIDs of those of the keys that signed a message, in the order of the keys. It counts for errors
// and for people; go-tuf decides.
func Signers(keys Keys, message []byte, signatures []metadata.Signature) []string {
	var ids []string
	for i, id := range keys.TUFIDs() {
		at := slices.IndexFunc(signatures, func(s metadata.Signature) bool { return s.KeyID == id })
		if at >= 0 && signed(keys.Public[i], message, signatures[at].Signature) {
			ids = append(ids, attest.KeyID(keys.Public[i]))
		}
	}
	return ids
}

func signed(pub crypto.PublicKey, message, sig []byte) bool {
	verifier, err := signature.LoadVerifier(pub, crypto.SHA256)
	return err == nil && verifier.VerifySignature(bytes.NewReader(sig), bytes.NewReader(message)) == nil
}
