// Package trust says whose signatures count for a channel: from pinned keys (level 1), or from a TUF root of trust
// (level 2) whose metadata travels with each release.
//
// It opens no connection, keeps no file and asks no clock: state comes and goes as bytes, and the time is a parameter.
// Roles, signatures, versions and expiry are judged by go-tuf; this package reads strictly before, bounds what is read,
// keeps keys apart that must be apart, and gives the result as a value.
package trust

import (
	"crypto"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/plimsoll/plimsoll/attest"
)

// Roles of a root of trust. A channel's role is ChannelRole of its name.
const (
	RoleRoot        = "root"        // offline keys: say who has the other top-level roles
	RoleTargets     = "targets"     // offline keys: say who may release, attest and revoke
	RoleSnapshot    = "snapshot"    // the export key: says which versions belong together
	RoleTimestamp   = "timestamp"   // the export key: says which snapshot is the newest, and until when a medium may be used
	RoleAttestation = "attestation" // keys of CI that sign SBOMs, provenance, test results
	RoleRevocation  = "revocation"  // keys that sign revocations, which only subtract rights
)

// ChannelRole is the role whose keys sign the releases of a channel.
func ChannelRole(channel string) string { return channelPrefix + channel }

// Keys are public keys of which a number must sign. The zero value is satisfied by nobody.
type Keys struct {
	Public    []crypto.PublicKey // ECDSA P-256 or Ed25519, all different
	Threshold int                // at least 1, at most the number of keys
	tuf       []string           // the ids of TUF, if they are known
}

// TUFIDs are the names of the keys in TUF metadata, in their order: the SHA-256 of TUF's form of a key.
func (k Keys) TUFIDs() []string {
	if len(k.tuf) == len(k.Public) {
		return slices.Clone(k.tuf)
	}
	ids := make([]string, len(k.Public))
	for i, pub := range k.Public {
		if key, err := metadata.KeyFromPublicKey(pub); err == nil {
			ids[i], _ = key.ID()
		}
	}
	return ids
}

// IDs are the attest.KeyID of the keys, in their order.
func (k Keys) IDs() []string {
	ids := make([]string, len(k.Public))
	for i, pub := range k.Public {
		ids[i] = attest.KeyID(pub)
	}
	return ids
}

// Empty reports whether there is no key.
func (k Keys) Empty() bool { return len(k.Public) == 0 }

func (k Keys) clone() Keys { return Keys{slices.Clone(k.Public), k.Threshold, slices.Clone(k.tuf)} }

// Check refuses keys of a role that could be counted twice, and thresholds that mean nothing or cannot be reached. It
// fails with *KeysError; no keys and no threshold are fine.
func (k Keys) Check(role string) error {
	if len(k.Public) == 0 && k.Threshold == 0 {
		return nil
	}
	if len(k.Public) > MaxKeys {
		return &KeysError{Role: role, Reason: fmt.Sprintf("%d keys, the limit is %d", len(k.Public), MaxKeys)}
	}
	seen := make(map[string]struct{}, len(k.Public))
	for _, pub := range k.Public {
		id := attest.KeyID(pub)
		if id == "" {
			return &KeysError{Role: role, Reason: fmt.Sprintf("a key of type %T: want ECDSA P-256 or Ed25519", pub)}
		}
		if _, dup := seen[id]; dup {
			return &KeysError{Role: role, KeyID: id, Reason: "given twice"}
		}
		seen[id] = struct{}{}
	}
	if k.Threshold < 1 || k.Threshold > len(k.Public) {
		return &KeysError{Role: role, Reason: fmt.Sprintf("threshold %d of %d keys", k.Threshold, len(k.Public))}
	}
	return nil
}

// Pinned is trust at level 1: keys that the site was given, for every channel.
type Pinned struct {
	Release     Keys // a Threshold of 0 is 1
	Attestation Keys // any one of them; Threshold must be 0 or 1
	Revocation  Keys // a Threshold of 0 is 1; without keys nothing can be revoked
}

// Verified gives the pinned keys as what callers of both levels know. An attestation key cannot release or revoke: any
// attestation by a key is that key's signature for cosign, so whoever attests would release.
func (p Pinned) Verified() (*Verified, error) {
	keys := map[string]*Keys{"release": &p.Release, RoleAttestation: &p.Attestation, RoleRevocation: &p.Revocation}
	for _, role := range []string{"release", RoleAttestation, RoleRevocation} {
		k := keys[role]
		if k.Threshold == 0 && len(k.Public) > 0 {
			k.Threshold = 1
		}
		if err := k.Check(role); err != nil {
			return nil, err
		}
	}
	if p.Release.Empty() {
		return nil, &KeysError{Role: "release", Reason: "no key is pinned"}
	}
	if p.Attestation.Threshold > 1 {
		return nil, &KeysError{Role: RoleAttestation, Reason: "a threshold; every attestation has one signature"}
	}
	for i, id := range p.Attestation.IDs() {
		for _, role := range []string{"release", RoleRevocation} {
			if slices.Contains(keys[role].IDs(), id) {
				return nil, &KeyReuseError{KeyID: attest.KeyID(p.Attestation.Public[i]), Roles: [2]string{role, RoleAttestation}}
			}
		}
	}
	release := p.Release.clone()
	return &Verified{pinned: &release, attestation: p.Attestation.clone(), revocation: p.Revocation.clone()}, nil
}

// Verified is the answer of either level to whose signatures count. Only Pinned.Verified, Update and Open make one; the
// zero value trusts nobody.
type Verified struct {
	pinned      *Keys // of every channel, at level 1
	root        int64
	versions    map[string]int64
	channels    map[string]channel
	attestation Keys
	revocation  Keys
	expiry      []Expiry // of the top-level roles, in the order in which they are checked
	signed      time.Time
}

// channel is what is known of one, and why no release of it can be taken.
type channel struct {
	Channel
	err error
}

// Channel says who releases on a channel and, at level 2, what its newest release is.
type Channel struct {
	Name    string        //
	Release Keys          // whose signatures a release needs
	Bundle  digest.Digest // of the bundle index that the channel lists as releases/<name>; empty at level 1
	Size    int64         // bytes of that index
	Version int64         // of the channel's metadata; 0 at level 1
	Expires time.Time     // of the channel's metadata; zero at level 1
}

// Lists fails with *NotListedError when the channel's role lists another bundle, or none. At level 1 every bundle is
// listed: there the signatures alone decide.
func (c Channel) Lists(bundle digest.Digest) error {
	if c.Version == 0 || c.Bundle == bundle {
		return nil
	}
	return &NotListedError{Channel: c.Name, Bundle: bundle, Listed: c.Bundle}
}

// CheckExpiry fails with *ExpiredError when the channel's metadata has expired at now. Update has asked it already; after
// Open the caller does.
func (c Channel) CheckExpiry(now time.Time) error {
	if c.Version == 0 {
		return nil
	}
	return Expiry{Role: ChannelRole(c.Name), Expires: c.Expires}.check(now)
}

// Expiry is until when the metadata of a role counts.
type Expiry struct {
	Role    string
	Expires time.Time // UTC
}

// Level is 1 for pinned keys, 2 for a root of trust, 0 for the zero value.
func (v *Verified) Level() int {
	switch {
	case v.pinned != nil:
		return 1
	case v.root > 0:
		return 2
	}
	return 0
}

// RootVersion is the version of the root; 0 at level 1.
func (v *Verified) RootVersion() int64 { return v.root }

// Version is that of a role's metadata, for example RoleTimestamp; 0 when it has none.
func (v *Verified) Version(role string) int64 { return v.versions[role] }

// Channels are the names of the channels that the root of trust knows, sorted; at level 1 none is named and all count.
func (v *Verified) Channels() []string {
	names := make([]string, 0, len(v.channels))
	for name := range v.channels {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Channel fails with *UnknownChannelError when nobody may release on it, with *MissingError when its metadata did not
// come along, and with *ExpiredError when that has expired.
func (v *Verified) Channel(name string) (Channel, error) {
	if v.pinned != nil {
		return Channel{Name: name, Release: v.pinned.clone()}, nil
	}
	c, ok := v.channels[name]
	if !ok {
		return Channel{}, &UnknownChannelError{Channel: name, Known: v.Channels()}
	}
	if c.err != nil {
		return Channel{}, c.err
	}
	c.Release = c.Release.clone()
	return c.Channel, nil
}

// Attestation are the keys of which any one may attest: SBOMs, provenance, test results.
func (v *Verified) Attestation() Keys { return v.attestation.clone() }

// Revocation are the keys that may revoke. They count whatever has expired: a revocation only subtracts rights.
func (v *Verified) Revocation() Keys { return v.revocation.clone() }

// UseBy is when a medium with this metadata stops being good for imports: the earlier expiry of timestamp and snapshot.
// It is zero at level 1, where the release statement alone says it.
func (v *Verified) UseBy() time.Time {
	var first time.Time
	for _, e := range v.expiry {
		if (e.Role == RoleTimestamp || e.Role == RoleSnapshot) && (first.IsZero() || e.Expires.Before(first)) {
			first = e.Expires
		}
	}
	return first
}

// Expiry lists until when the top-level roles count; none at level 1.
func (v *Verified) Expiry() []Expiry { return slices.Clone(v.expiry) }

// SignedAt is the newest time that the verified metadata says it was made at; zero when none says it. It raises the
// floor of a clock that lies. The export key alone can sign it: a stolen one can make a relay believe in a later time.
func (v *Verified) SignedAt() time.Time { return v.signed }

// CheckExpiry fails with *ExpiredError for the first top-level role that has expired at now. It is what blocks imports
// by metadata that came earlier, which Open gives whatever its age.
func (v *Verified) CheckExpiry(now time.Time) error {
	for _, e := range v.expiry {
		if err := e.check(now); err != nil {
			return err
		}
	}
	return nil
}

// check follows the specification: what expires now has expired. The zero time stands for no check.
func (e Expiry) check(now time.Time) error {
	if now.IsZero() || now.Before(e.Expires) {
		return nil
	}
	return &ExpiredError{Role: e.Role, Expires: e.Expires, Now: now.UTC()}
}
