package ceremony

import (
	"bytes"
	"crypto"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/trust"
)

// Need is a group of keys of which a number must sign a document.
type Need struct {
	By        string   `json:"by"` // who says so: "root 2", "targets 5"
	Threshold int      `json:"threshold"`
	Signed    []string `json:"signed"`  // attest.KeyID of those that did
	Missing   []string `json:"missing"` // and of those that did not; Threshold - len(Signed) of them are needed

	keys    trust.Keys
	pending bool // By is not published itself
}

// Satisfied reports whether enough keys have signed.
func (n Need) Satisfied() bool { return len(n.Signed) >= n.Threshold }

// Item is a document that has signatures or wants some.
type Item struct {
	File    string    `json:"file"`
	Role    string    `json:"role"`
	Version int64     `json:"version"`
	Pending bool      `json:"pending"` // false: published; it may want signatures of keys that a newer version names
	Expires time.Time `json:"expires"`
	Needs   []Need    `json:"needs"`
}

// Complete reports whether no signature is missing.
func (i Item) Complete() bool { return complete(i.Needs) }

func complete(needs []Need) bool {
	return len(needs) > 0 && !slices.ContainsFunc(needs, func(n Need) bool { return !n.Satisfied() })
}

// needs says whose signatures a document wants: a new root those of the root before and its own; anything else those of
// the keys that the published delegator names, and that the next one will name, so that both can be signed in one session.
func (f *Folder) needs(d *document) []Need {
	var needs []Need
	add := func(by *document, role, name string) {
		if by == nil {
			return
		}
		var roles map[string]trust.Keys
		if by.root != nil {
			roles, _ = trust.RootKeys(by.file, by.root) // was checked when it was parsed
		} else {
			roles, _ = trust.DelegatedKeys(by.targets)
		}
		keys, ok := roles[role]
		if !ok {
			return
		}
		for _, n := range needs {
			if n.Threshold == keys.Threshold && slices.Equal(sorted(n.keys.IDs()), sorted(keys.IDs())) {
				return
			}
		}
		n := Need{By: name, Threshold: keys.Threshold, keys: keys, pending: f.pending[by.file] == by,
			Signed: trust.Signers(keys, d.signed, d.signatures), Missing: []string{}}
		for _, id := range keys.IDs() {
			if !slices.Contains(n.Signed, id) {
				n.Missing = append(n.Missing, id)
			}
		}
		if n.Signed == nil {
			n.Signed = []string{}
		}
		needs = append(needs, n)
	}
	name := func(by *document) string {
		if by == nil {
			return ""
		}
		return fmt.Sprintf("%s %d", by.role, by.version)
	}
	switch {
	case d.root != nil:
		if before := f.roots[d.version-1]; before != nil {
			add(before, trust.RoleRoot, name(before))
		}
		add(d, trust.RoleRoot, name(d))
	case d.role == trust.RoleTargets:
		add(f.root(), d.role, name(f.root()))
		add(f.nextRoot(), d.role, name(f.nextRoot()))
	default:
		for _, by := range []*document{f.published[trust.FileTargets], f.pending[trust.FileTargets]} {
			add(by, d.role, name(by))
		}
	}
	return needs
}

func sorted(ids []string) []string {
	slices.Sort(ids)
	return ids
}

// publishable reports whether what is published already lets a pending document count.
func (f *Folder) publishable(d *document) bool {
	by := f.published[trust.FileTargets]
	if d.role == trust.RoleTargets {
		by = f.root()
	}
	needs := f.needs(d)
	return by != nil && len(needs) > 0 && !needs[0].pending && needs[0].Satisfied()
}

// documents are the newest root, the newest targets and channels, and what is pending of each.
func (f *Folder) documents() []*document {
	var all []*document
	for _, d := range []*document{f.root(), f.nextRoot(), f.published[trust.FileTargets], f.pending[trust.FileTargets]} {
		if d != nil {
			all = append(all, d)
		}
	}
	names := make(map[string]bool)
	for _, of := range []map[string]*document{f.published, f.pending} {
		for name, d := range of {
			names[name] = names[name] || d.root == nil && d.role != trust.RoleTargets
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		for _, of := range []map[string]*document{f.published, f.pending} {
			if d := of[name]; d != nil && names[name] {
				all = append(all, d)
			}
		}
	}
	return all
}

func (f *Folder) item(d *document) Item {
	return Item{File: d.file, Role: d.role, Version: d.version, Pending: f.pending[d.file] == d, Expires: d.expires.UTC(), Needs: f.needs(d)}
}

// wants reports whether a signature by a key is missing.
func wants(needs []Need, keyID string) bool {
	return slices.ContainsFunc(needs, func(n Need) bool { return !n.Satisfied() && slices.Contains(n.Missing, keyID) })
}

// Result is what signing or merging came to.
type Result struct {
	Signed    []string // files that got a signature
	Published []string // files that became complete
}

// Sign adds a key's signature to everything that misses it. Each document is shown first: show gets its item and its
// lines, of which those that begin with + or - differ from the version before; its error ends the signing before anything
// is written. Nothing is signed when one of the documents cannot be shown (*UnshowableError), or when no signature of the
// key is missing (*NothingToSignError).
func (f *Folder) Sign(signer signature.Signer, show func(Item, []string) error) (Result, error) {
	pub, err := signer.PublicKey()
	if err != nil {
		return Result{}, err
	}
	keyID := attest.KeyID(pub)
	if keyID == "" {
		return Result{}, &trust.KeysError{Role: "(signer)", Reason: "want an ECDSA P-256 or Ed25519 key"}
	}
	var work []*document
	for _, d := range f.documents() {
		if !wants(f.needs(d), keyID) {
			continue
		}
		lines, err := f.describe(d)
		if err != nil {
			return Result{}, err
		}
		if err := show(f.item(d), lines); err != nil {
			return Result{}, err
		}
		work = append(work, d)
	}
	if len(work) == 0 {
		return Result{}, &NothingToSignError{KeyID: keyID}
	}
	var writes []write
	var r Result
	for _, d := range work {
		sig, err := signer.SignMessage(bytes.NewReader(d.signed))
		if err != nil {
			return Result{}, fmt.Errorf("sign %s: %w", d.file, err)
		}
		if !valid(pub, d.signed, sig) {
			return Result{}, &BadSignatureError{Folder: f.dir, File: d.file, KeyID: keyID}
		}
		if err := d.add(f.tufID(d, keyID), sig); err != nil {
			return Result{}, err
		}
		w, err := f.rewrite(d)
		if err != nil {
			return Result{}, err
		}
		writes = append(writes, w)
		r.Signed = append(r.Signed, d.file)
	}
	if err := store(writes...); err != nil {
		return r, err
	}
	r.Published, err = f.publish()
	return r, err
}

// rewrite is the write of a document where it is already.
func (f *Folder) rewrite(d *document) (write, error) {
	if f.pending[d.file] == d {
		return f.pendingWrite(d)
	}
	return f.publishedWrite(d)
}

func valid(pub crypto.PublicKey, message, sig []byte) bool {
	verifier, err := signature.LoadVerifier(pub, crypto.SHA256)
	return err == nil && verifier.VerifySignature(bytes.NewReader(sig), bytes.NewReader(message)) == nil
}

// tufID is the name that a document's delegators give a key.
func (f *Folder) tufID(d *document, keyID string) string {
	for _, n := range f.needs(d) {
		if i := slices.Index(n.keys.IDs(), keyID); i >= 0 {
			return n.keys.TUFIDs()[i]
		}
	}
	return ""
}

// add keeps one signature for each key.
func (d *document) add(tufID string, sig []byte) error {
	d.signatures = slices.DeleteFunc(slices.Clone(d.signatures), func(s metadata.Signature) bool { return s.KeyID == tufID })
	if len(d.signatures) == trust.MaxSignatures {
		return &ConflictError{File: d.file, Version: d.version, Reason: "has as many signatures as it can"}
	}
	d.signatures = append(d.signatures, metadata.Signature{KeyID: tufID, Signature: sig})
	slices.SortFunc(d.signatures, func(a, b metadata.Signature) int { return strings.Compare(a.KeyID, b.KeyID) })
	return nil
}

// Merge takes the signatures of copies of this folder that were signed elsewhere. It takes nothing else, and refuses
// everything before the first write: a copy whose version of a file says something else, that knows newer versions, or
// that has an invalid signature by a key that is asked for (*ConflictError, *BadSignatureError).
func (f *Folder) Merge(others ...*Folder) (Result, error) {
	changed := make(map[*document]bool)
	for _, other := range others {
		if err := f.sameOrOlder(other); err != nil {
			return Result{}, err
		}
		for _, d := range f.documents() {
			for _, theirs := range other.all() {
				if theirs.file != d.file || theirs.version != d.version {
					continue
				}
				n, err := f.take(d, theirs, other.dir)
				if err != nil {
					return Result{}, err
				}
				changed[d] = changed[d] || n > 0
			}
		}
	}
	var r Result
	var writes []write
	for _, d := range f.documents() {
		if !changed[d] {
			continue
		}
		w, err := f.rewrite(d)
		if err != nil {
			return Result{}, err
		}
		writes = append(writes, w)
		r.Signed = append(r.Signed, d.file)
	}
	if err := store(writes...); err != nil {
		return r, err
	}
	var err error
	r.Published, err = f.publish()
	return r, err
}

// all are all documents, every version of the root among them.
func (f *Folder) all() []*document {
	all := slices.Collect(maps.Values(f.pending))
	all = slices.AppendSeq(all, maps.Values(f.published))
	all = slices.AppendSeq(all, maps.Values(f.roots))
	slices.SortFunc(all, func(a, b *document) int {
		if c := strings.Compare(a.file, b.file); c != 0 {
			return c
		}
		return int(a.version - b.version)
	})
	return all
}

func (f *Folder) sameOrOlder(other *Folder) error {
	mine := make(map[string]*document)
	newest := make(map[string]int64)
	for _, d := range f.all() {
		mine[fmt.Sprintf("%s %d", d.file, d.version)] = d
		newest[d.role] = max(newest[d.role], d.version)
	}
	for _, theirs := range other.all() {
		d := mine[fmt.Sprintf("%s %d", theirs.file, theirs.version)]
		switch {
		case theirs.version > newest[theirs.role]:
			return &ConflictError{Folder: other.dir, File: theirs.file, Version: theirs.version, Reason: fmt.Sprintf("is newer than what %s has; only signatures are merged", f.dir)}
		case d != nil && !bytes.Equal(d.signed, theirs.signed):
			return &ConflictError{Folder: other.dir, File: theirs.file, Version: theirs.version, Reason: "says something else than in " + filepath.Base(f.dir)}
		}
	}
	return nil
}

// take adds the signatures that are asked for and absent, and gives their number.
func (f *Folder) take(d, theirs *document, folder string) (int, error) {
	n := 0
	for _, need := range f.needs(d) {
		for i, tufID := range need.keys.TUFIDs() {
			at := slices.IndexFunc(theirs.signatures, func(s metadata.Signature) bool { return s.KeyID == tufID })
			if at < 0 || slices.Contains(need.Signed, need.keys.IDs()[i]) {
				continue
			}
			sig := theirs.signatures[at].Signature
			if !valid(need.keys.Public[i], d.signed, sig) {
				return 0, &BadSignatureError{Folder: folder, File: d.file, KeyID: need.keys.IDs()[i]}
			}
			if err := d.add(tufID, sig); err != nil {
				return 0, err
			}
			n++
		}
	}
	return n, nil
}
