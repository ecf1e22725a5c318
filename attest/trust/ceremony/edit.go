package ceremony

import (
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/trust"
)

// RoleExport stands for both roles of the export key in changes: timestamp and snapshot.
const RoleExport = "export"

// Edit is what every change needs to know.
type Edit struct {
	Now     time.Time // of the change; the metadata says it
	Expires time.Time // of what is changed; zero keeps what it has
}

// Plan is the beginning of a root of trust.
type Plan struct {
	Root, Export trust.Keys
	Targets      trust.Keys // none: those of Root
	Now, Expires time.Time  // of root and targets
}

// Init makes a folder with a root and targets that nobody has signed yet. It fails when dir exists and is not empty.
func Init(dir string, p Plan) (*Folder, error) {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return nil, fmt.Errorf("%s exists and is not overwritten", dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if p.Targets.Empty() {
		p.Targets = p.Root
	}
	e := Edit{Now: p.Now, Expires: p.Expires}
	if p.Expires.IsZero() {
		return nil, &ChangeError{Role: trust.RoleRoot, Reason: "no time of expiry"}
	}
	root := metadata.Root(p.Expires)
	for role, keys := range map[string]trust.Keys{
		trust.RoleRoot: p.Root, trust.RoleTargets: p.Targets, trust.RoleTimestamp: p.Export, trust.RoleSnapshot: p.Export,
	} {
		if err := keys.Check(role); err != nil {
			return nil, err
		}
		if keys.Empty() {
			return nil, &trust.KeysError{Role: role, Reason: "no key"}
		}
		ids, err := register(root.Signed.Keys, keys.Public)
		if err != nil {
			return nil, err
		}
		root.Signed.Roles[role] = &metadata.Role{KeyIDs: ids, Threshold: keys.Threshold}
	}
	targets := metadata.Targets(p.Expires)
	targets.Signed.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}, Roles: []metadata.DelegatedRole{}}
	f := &Folder{dir: dir, roots: map[int64]*document{}, published: map[string]*document{}, pending: map[string]*document{}, export: trust.Files{}}
	a, err := f.prepareRoot(root, e)
	if err != nil {
		return nil, err
	}
	b, err := f.prepareTargets(trust.FileTargets, trust.RoleTargets, targets, e)
	if err != nil {
		return nil, err
	}
	return f, store(a, b)
}

// AddKeys gives keys a role. Attestation and revocation begin with the first key, and a threshold of 1.
func (f *Folder) AddKeys(role string, keys []crypto.PublicKey, e Edit) error {
	return f.change(role, e, func(k trust.Keys) (trust.Keys, error) {
		for _, pub := range keys {
			if _, err := find(role, k, attest.KeyID(pub)); err == nil {
				return k, &ChangeError{Role: role, Reason: fmt.Sprintf("key %s has it already", attest.KeyID(pub))}
			}
			k.Public = append(k.Public, pub)
		}
		k.Threshold = max(k.Threshold, 1)
		return k, nil
	})
}

// RemoveKey takes a role from a key, which is named by its attest.KeyID or the beginning of it.
func (f *Folder) RemoveKey(role, keyID string, e Edit) error {
	return f.change(role, e, func(k trust.Keys) (trust.Keys, error) {
		i, err := find(role, k, keyID)
		if err != nil {
			return k, err
		}
		if len(k.Public) == k.Threshold {
			return k, &ChangeError{Role: role, Reason: fmt.Sprintf("of its %d keys %d must sign: add a key or lower the threshold first", len(k.Public), k.Threshold)}
		}
		k.Public = slices.Delete(k.Public, i, i+1)
		return k, nil
	})
}

// Rotate puts a key in the place of another in one version.
func (f *Folder) Rotate(role, keyID string, key crypto.PublicKey, e Edit) error {
	return f.change(role, e, func(k trust.Keys) (trust.Keys, error) {
		i, err := find(role, k, keyID)
		if err != nil {
			return k, err
		}
		if _, err := find(role, k, attest.KeyID(key)); err == nil {
			return k, &ChangeError{Role: role, Reason: fmt.Sprintf("key %s has it already", attest.KeyID(key))}
		}
		k.Public[i] = key
		return k, nil
	})
}

// SetThreshold says how many keys of a role must sign.
func (f *Folder) SetThreshold(role string, n int, e Edit) error {
	return f.change(role, e, func(k trust.Keys) (trust.Keys, error) {
		if k.Threshold == n {
			return k, &ChangeError{Role: role, Reason: fmt.Sprintf("the threshold is %d already", n)}
		}
		k.Threshold = n
		return k, nil
	})
}

// find gives the place of a key that is named by its id, or by 8 or more characters of its beginning.
func find(role string, k trust.Keys, id string) (int, error) {
	at := -1
	for i, have := range k.IDs() {
		if have == id || len(id) >= 8 && strings.HasPrefix(have, id) {
			if at >= 0 {
				return 0, &ChangeError{Role: role, Reason: fmt.Sprintf("%s are several keys", id)}
			}
			at = i
		}
	}
	if at < 0 {
		return 0, &ChangeError{Role: role, Reason: fmt.Sprintf("key %s has it not", id)}
	}
	return at, nil
}

// change applies a change to the keys of a role, wherever they stand.
func (f *Folder) change(role string, e Edit, change func(trust.Keys) (trust.Keys, error)) error {
	switch role {
	case RoleExport:
		return f.editRoot(e, func(root *metadata.RootType) error {
			return errors.Join(changeRoot(root, trust.RoleTimestamp, change), changeRoot(root, trust.RoleSnapshot, change))
		})
	case trust.RoleRoot, trust.RoleTargets, trust.RoleTimestamp, trust.RoleSnapshot:
		return f.editRoot(e, func(root *metadata.RootType) error { return changeRoot(root, role, change) })
	}
	if _, ok := trust.PathsOf(role); !ok {
		return &ChangeError{Role: role, Reason: "there is no such role: want root, targets, export, timestamp, snapshot, attestation, revocation or channel-NAME"}
	}
	return f.editTargets(e, func(targets *metadata.TargetsType) error {
		if slices.ContainsFunc(targets.Delegations.Roles, func(r metadata.DelegatedRole) bool { return r.Name == role }) {
			return changeDelegation(targets, role, change)
		}
		if strings.HasPrefix(role, trust.ChannelRole("")) {
			return &ChangeError{Role: role, Reason: "nobody has it yet; 'delegate' makes a channel"}
		}
		return delegate(targets, role, change)
	})
}

// Delegate makes a channel, and says who releases on it.
func (f *Folder) Delegate(channel string, keys trust.Keys, e Edit) error {
	if err := trust.CheckChannelName(channel); err != nil {
		return err
	}
	role := trust.ChannelRole(channel)
	return f.editTargets(e, func(targets *metadata.TargetsType) error {
		if slices.ContainsFunc(targets.Delegations.Roles, func(r metadata.DelegatedRole) bool { return r.Name == role }) {
			return &ChangeError{Role: role, Reason: "exists; change its keys with add-key, remove-key, rotate, threshold"}
		}
		return delegate(targets, role, func(trust.Keys) (trust.Keys, error) { return keys, nil })
	})
}

func delegate(targets *metadata.TargetsType, role string, change func(trust.Keys) (trust.Keys, error)) error {
	paths, _ := trust.PathsOf(role)
	targets.Delegations.Roles = append(targets.Delegations.Roles, metadata.DelegatedRole{Name: role, Paths: paths, Terminating: true})
	i := len(targets.Delegations.Roles) - 1
	keys, err := change(trust.Keys{})
	if err != nil {
		return err
	}
	return setDelegation(targets, i, keys)
}

func changeDelegation(targets *metadata.TargetsType, role string, change func(trust.Keys) (trust.Keys, error)) error {
	roles, err := trust.DelegatedKeys(targets)
	if err != nil {
		return err
	}
	keys, err := change(roles[role])
	if err != nil {
		return err
	}
	return setDelegation(targets, slices.IndexFunc(targets.Delegations.Roles, func(r metadata.DelegatedRole) bool { return r.Name == role }), keys)
}

func setDelegation(targets *metadata.TargetsType, i int, keys trust.Keys) error {
	r := &targets.Delegations.Roles[i]
	if err := keys.Check(r.Name); err != nil {
		return err
	}
	ids, err := register(targets.Delegations.Keys, keys.Public)
	if err != nil {
		return err
	}
	r.KeyIDs, r.Threshold = ids, keys.Threshold
	used := make(map[string]bool)
	for _, r := range targets.Delegations.Roles {
		for _, id := range r.KeyIDs {
			used[id] = true
		}
	}
	maps.DeleteFunc(targets.Delegations.Keys, func(id string, _ *metadata.Key) bool { return !used[id] })
	return nil
}

func changeRoot(root *metadata.RootType, role string, change func(trust.Keys) (trust.Keys, error)) error {
	roles, err := trust.RootKeys(trust.RoleRoot, root)
	if err != nil {
		return err
	}
	keys, err := change(roles[role])
	if err != nil {
		return err
	}
	if err := keys.Check(role); err != nil {
		return err
	}
	ids, err := register(root.Keys, keys.Public)
	if err != nil {
		return err
	}
	root.Roles[role] = &metadata.Role{KeyIDs: ids, Threshold: keys.Threshold}
	used := make(map[string]bool)
	for _, r := range root.Roles {
		for _, id := range r.KeyIDs {
			used[id] = true
		}
	}
	maps.DeleteFunc(root.Keys, func(id string, _ *metadata.Key) bool { return !used[id] })
	return nil
}

// register gives the TUF ids of keys, under the names that they have already, and adds those that are new.
func register(known map[string]*metadata.Key, keys []crypto.PublicKey) ([]string, error) {
	names := make(map[string]string)
	for id, key := range known {
		if pub, err := key.ToPublicKey(); err == nil {
			names[attest.KeyID(pub)] = id
		}
	}
	ids := make([]string, 0, len(keys))
	for _, pub := range keys {
		id, ok := names[attest.KeyID(pub)]
		if !ok {
			key, err := metadata.KeyFromPublicKey(pub)
			if err != nil {
				return nil, err
			}
			if id, err = key.ID(); err != nil {
				return nil, err
			}
			known[id] = key
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// Renew makes a new version of a role's metadata that expires later, and changes nothing else.
func (f *Folder) Renew(role string, e Edit) error {
	if e.Expires.IsZero() {
		return &ChangeError{Role: role, Reason: "no time of expiry"}
	}
	switch role {
	case trust.RoleRoot:
		return f.editRoot(e, func(*metadata.RootType) error { return nil })
	case trust.RoleTargets:
		return f.editTargets(e, func(*metadata.TargetsType) error { return nil })
	}
	channel, ok := trust.ChannelOf(role + ".json")
	if !ok {
		return &ChangeError{Role: role, Reason: "cannot be renewed: want root, targets or channel-NAME; an export renews the others"}
	}
	if f.last(trust.ChannelFile(channel)) == nil {
		return &ChangeError{Role: role, Reason: "lists no release yet"}
	}
	return f.editChannel(channel, e, func(*metadata.TargetsType) {})
}

// SetRelease makes a version of a channel's metadata that lists a bundle index as its release. When that is published
// already nothing changes, unless it is to expire at another time.
func (f *Folder) SetRelease(channel string, bundle digest.Digest, size int64, e Edit) error {
	if err := bundle.Validate(); err != nil || bundle.Algorithm() != digest.SHA256 {
		return &ChangeError{Role: trust.ChannelRole(channel), Reason: fmt.Sprintf("bundle %q: want sha256:…", bundle)}
	}
	sum, err := hex.DecodeString(bundle.Encoded())
	if err != nil {
		return err
	}
	path := trust.TargetPath(channel)
	if d := f.last(trust.ChannelFile(channel)); d != nil && (e.Expires.IsZero() || e.Expires.Equal(d.expires)) {
		if t := d.targets.Targets[path]; t != nil && t.Length == size && string(t.Hashes["sha256"]) == string(sum) {
			return nil
		}
	}
	return f.editChannel(channel, e, func(targets *metadata.TargetsType) {
		targets.Targets = map[string]*metadata.TargetFiles{path: {Length: size, Hashes: metadata.Hashes{"sha256": sum}, Path: path}}
	})
}

func (f *Folder) editChannel(channel string, e Edit, change func(*metadata.TargetsType)) error {
	if err := trust.CheckChannelName(channel); err != nil {
		return err
	}
	targets := f.last(trust.FileTargets)
	if targets == nil {
		return &trust.MissingError{File: trust.FileTargets}
	}
	roles, err := trust.DelegatedKeys(targets.targets)
	if err != nil {
		return err
	}
	role, file := trust.ChannelRole(channel), trust.ChannelFile(channel)
	if roles[role].Empty() {
		return &ChangeError{Role: role, Reason: "nobody may release on it; 'delegate' says who"}
	}
	m := metadata.Targets(e.Expires)
	if d := f.last(file); d != nil {
		if m, err = f.next(d); err != nil {
			return err
		}
	} else if e.Expires.IsZero() {
		return &ChangeError{Role: role, Reason: "no time of expiry"}
	}
	change(&m.Signed)
	w, err := f.prepareTargets(file, role, m, e)
	if err != nil {
		return err
	}
	return store(w)
}

func (f *Folder) editTargets(e Edit, change func(*metadata.TargetsType) error) error {
	d := f.last(trust.FileTargets)
	if d == nil {
		return &trust.MissingError{File: trust.FileTargets}
	}
	m, err := f.next(d)
	if err != nil {
		return err
	}
	if m.Signed.Delegations == nil {
		m.Signed.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}}
	}
	if err := change(&m.Signed); err != nil {
		return err
	}
	w, err := f.prepareTargets(trust.FileTargets, trust.RoleTargets, m, e)
	if err != nil {
		return err
	}
	return store(w)
}

// next is a copy of a document to change: the pending version while nobody has signed it, else the next one.
func (f *Folder) next(d *document) (*metadata.Metadata[metadata.TargetsType], error) {
	if err := f.changeable(d); err != nil {
		return nil, err
	}
	data, err := d.encode()
	if err != nil {
		return nil, err
	}
	m, err := metadata.Targets(d.expires).FromBytes(data)
	if err == nil && f.pending[d.file] == nil {
		m.Signed.Version++
	}
	return m, err
}

func (f *Folder) changeable(d *document) error {
	if f.pending[d.file] != nil && len(d.signatures) > 0 {
		return &PendingError{File: d.file, Version: d.version, Signatures: len(d.signatures)}
	}
	return nil
}

func (f *Folder) editRoot(e Edit, change func(*metadata.RootType) error) error {
	d := f.lastRoot()
	if err := f.changeable(d); err != nil {
		return err
	}
	data, err := d.encode()
	if err != nil {
		return err
	}
	m, err := metadata.Root(d.expires).FromBytes(data)
	if err != nil {
		return err
	}
	if f.pending[d.file] == nil {
		m.Signed.Version++
	}
	if m.Signed.Version > trust.MaxRoots {
		return &ChangeError{Role: trust.RoleRoot, Reason: fmt.Sprintf("has %d versions, no more can travel; start a new root of trust", trust.MaxRoots)}
	}
	if err := change(&m.Signed); err != nil {
		return err
	}
	w, err := f.prepareRoot(m, e)
	if err != nil {
		return err
	}
	return store(w)
}

// prepareRoot checks a new version of the root and makes it pending, in memory.
func (f *Folder) prepareRoot(m *metadata.Metadata[metadata.RootType], e Edit) (write, error) {
	s := &m.Signed
	var err error
	if s.Expires, err = e.stamp(trust.RoleRoot, s.Expires, &s.UnrecognizedFields); err != nil {
		return write{}, err
	}
	m.Signatures = []metadata.Signature{}
	if err := trust.CheckRoot(trust.RootFile(s.Version), s); err != nil {
		return write{}, err
	}
	d, err := rootDocument(m)
	if err != nil {
		return write{}, err
	}
	return f.prepare(d)
}

// prepareTargets is prepareRoot for the targets and the channels.
func (f *Folder) prepareTargets(file, role string, m *metadata.Metadata[metadata.TargetsType], e Edit) (write, error) {
	s := &m.Signed
	var err error
	if s.Expires, err = e.stamp(role, s.Expires, &s.UnrecognizedFields); err != nil {
		return write{}, err
	}
	m.Signatures = []metadata.Signature{}
	d, err := targetsDocument(file, role, m)
	if err != nil {
		return write{}, err
	}
	return f.prepare(d)
}

// stamp says when a version is made and until when it counts.
func (e Edit) stamp(role string, expires time.Time, unknown *map[string]any) (time.Time, error) {
	if !e.Expires.IsZero() {
		expires = e.Expires
	}
	expires = expires.UTC().Truncate(time.Second)
	if e.Now.IsZero() || !expires.After(e.Now) {
		return expires, &ChangeError{Role: role, Reason: fmt.Sprintf("would expire %s, now is %s", expires.Format(time.RFC3339), e.Now.UTC().Format(time.RFC3339))}
	}
	if *unknown == nil {
		*unknown = make(map[string]any)
	}
	(*unknown)[trust.IssuedField] = e.Now.UTC().Truncate(time.Second).Format(time.RFC3339)
	return expires, nil
}

// prepare refuses a version whose keys contradict those of the other roles, or that could not be read back.
func (f *Folder) prepare(d *document) (write, error) {
	w, err := f.pendingWrite(d)
	if err != nil {
		return write{}, err
	}
	root, targets := f.lastRoot(), f.last(trust.FileTargets)
	switch d.role {
	case trust.RoleRoot:
		root = d
	case trust.RoleTargets:
		targets = d
	}
	all := make(map[string]trust.Keys)
	if root != nil {
		if all, err = trust.RootKeys(root.file, root.root); err != nil {
			return write{}, err
		}
	}
	if targets != nil {
		keys, err := trust.DelegatedKeys(targets.targets)
		if err != nil {
			return write{}, err
		}
		maps.Copy(all, keys)
	}
	if err := trust.CheckApart(all); err != nil {
		return write{}, err
	}
	f.pending[d.file] = d
	return w, nil
}
