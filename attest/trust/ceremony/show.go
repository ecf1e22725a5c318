package ceremony

import (
	"crypto"
	"crypto/ed25519"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/plimsoll/plimsoll/attest/trust"
)

// describe says all that a document says, a line each: with "+ " before what the version before did not say, "- " before
// what is not said any more, and "  " before the rest. It fails with *UnshowableError when the document says more.
func (f *Folder) describe(d *document) ([]string, error) {
	if fields := d.unknownFields(); len(fields) > 0 {
		return nil, &UnshowableError{File: d.file, Fields: fields}
	}
	before := f.published[d.file]
	if d.root != nil {
		before = f.roots[d.version-1]
	}
	if before == d {
		before = nil // only signatures are new
	}
	now := d.lines()
	if before == nil {
		for i := range now {
			now[i] = "  " + now[i]
		}
		return now, nil
	}
	then := before.lines()
	var lines []string
	for _, l := range now {
		if slices.Contains(then, l) {
			lines = append(lines, "  "+l)
		} else {
			lines = append(lines, "+ "+l)
		}
	}
	for _, l := range then {
		if !slices.Contains(now, l) {
			lines = append(lines, "- "+l)
		}
	}
	return lines, nil
}

func (d *document) lines() []string {
	unknown := map[string]any(nil)
	if d.root != nil {
		unknown = d.root.UnrecognizedFields
	} else {
		unknown = d.targets.UnrecognizedFields
	}
	lines := []string{
		fmt.Sprintf("version %d", d.version),
		"expires " + d.expires.UTC().Format(time.RFC3339),
	}
	if at, ok := unknown[trust.IssuedField].(string); ok {
		lines = append(lines, "made "+at)
	}
	var roles map[string]trust.Keys
	switch {
	case d.root != nil:
		lines = append(lines, fmt.Sprintf("consistent snapshots: %v", d.root.ConsistentSnapshot))
		roles, _ = trust.RootKeys(d.file, d.root)
	case d.role == trust.RoleTargets:
		roles, _ = trust.DelegatedKeys(d.targets)
	}
	for _, role := range slices.Sorted(maps.Keys(roles)) {
		keys := roles[role]
		lines = append(lines, fmt.Sprintf("%s: %d of %d keys", role, keys.Threshold, len(keys.Public)))
		for i, id := range keys.IDs() {
			lines = append(lines, fmt.Sprintf("%s: key %s (%s)", role, id, kindOf(keys.Public[i])))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(d.targetFiles())) {
		t := d.targets.Targets[path]
		lines = append(lines, fmt.Sprintf("%s: sha256:%s, %d bytes", path, t.Hashes["sha256"], t.Length))
	}
	return lines
}

func (d *document) targetFiles() map[string]*metadata.TargetFiles {
	if d.targets == nil {
		return nil
	}
	return d.targets.Targets
}

func kindOf(pub crypto.PublicKey) string {
	if _, ok := pub.(ed25519.PublicKey); ok {
		return "Ed25519"
	}
	return "ECDSA P-256"
}

// unknownFields are the parts that lines does not show.
func (d *document) unknownFields() []string {
	var found []string
	look := func(where string, fields map[string]any) {
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			if where != "" || name != trust.IssuedField {
				found = append(found, where+strconv.QuoteToASCII(name))
			}
		}
	}
	keys := func(where string, keys map[string]*metadata.Key, used map[string]bool) {
		for _, id := range slices.Sorted(maps.Keys(keys)) {
			look(where+".keys.", keys[id].UnrecognizedFields)
			look(where+".keys.keyval.", keys[id].Value.UnrecognizedFields)
			if !used[id] {
				found = append(found, where+".keys."+strconv.QuoteToASCII(id)+" of no role")
			}
		}
	}
	used := make(map[string]bool)
	if root := d.root; root != nil {
		look("", root.UnrecognizedFields)
		for _, name := range slices.Sorted(maps.Keys(root.Roles)) {
			if !slices.Contains(metadata.TOP_LEVEL_ROLE_NAMES[:], name) {
				found = append(found, "role "+strconv.QuoteToASCII(name))
			}
			look("roles.", root.Roles[name].UnrecognizedFields)
			for _, id := range root.Roles[name].KeyIDs {
				used[id] = true
			}
		}
		keys("root", root.Keys, used)
		return found
	}
	look("", d.targets.UnrecognizedFields)
	for _, t := range d.targets.Targets {
		look("targets.", t.UnrecognizedFields)
		if t.Custom != nil {
			found = append(found, "targets.custom")
		}
	}
	if del := d.targets.Delegations; del != nil {
		look("delegations.", del.UnrecognizedFields)
		for _, r := range del.Roles {
			if _, ok := trust.PathsOf(r.Name); !ok {
				found = append(found, "role "+strconv.QuoteToASCII(r.Name))
			}
			look("delegations.roles.", r.UnrecognizedFields)
			for _, id := range r.KeyIDs {
				used[id] = true
			}
		}
		keys("delegations", del.Keys, used)
	}
	return found
}
