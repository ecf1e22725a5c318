package gitmirror

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/plimsoll/plimsoll/bundle"
)

type oid [20]byte

func parseOID(s string) (o oid, err error) {
	if len(s) != hex.EncodedLen(len(o)) {
		return o, fmt.Errorf("%.100q is not a SHA-1 object id", s)
	}
	_, err = hex.Decode(o[:], []byte(s))
	return o, err
}

// checkReachable refuses new objects that no ref of the lock leads to: clients may ask the mirror for any object by its
// id, so what nobody approved must not be in the store. Memory: 21 bytes for each object of the layers.
func (q *quarantine) checkReachable(ctx context.Context, g bundle.Git) error {
	all, err := q.objects(ctx)
	if err != nil {
		return err
	}
	reached := make([]bool, len(all))
	var revs strings.Builder
	for _, ref := range g.Refs {
		revs.WriteString(ref.OID + "\n")
	}
	for _, base := range q.bases { // what the store has needs no second walk
		revs.WriteString("^" + base + "\n")
	}
	err = q.m.git.Lines(ctx, q.repo, strings.NewReader(revs.String()), func(line string) error {
		o, err := parseOID(line)
		if err != nil {
			return fmt.Errorf("git rev-list: %w", err)
		}
		if i, ok := slices.BinarySearchFunc(all, o, compareOID); ok {
			reached[i] = true
		}
		return nil
	}, "rev-list", "--objects", "--no-object-names", "--stdin")
	if err != nil {
		return fmt.Errorf("git %s: %w", q.name, err)
	}
	var rest []string
	for i, o := range all {
		if !reached[i] {
			rest = append(rest, hex.EncodeToString(o[:]))
		}
	}
	// Bases of a thin pack, and what an earlier release brought, are in the store already.
	stray, err := q.missing(ctx, q.m.path(storeName), rest)
	if err != nil {
		return err
	}
	if len(stray) > 0 {
		return &RefusedError{Repository: q.name,
			Reason: fmt.Sprintf("%d objects that no ref of the lock leads to, the first is %s", len(stray), stray[0])}
	}
	return nil
}

// objects lists what the quarantine's packs hold, sorted, each once.
func (q *quarantine) objects(ctx context.Context) ([]oid, error) {
	var all []oid
	for _, hash := range q.packs {
		idx, err := os.Open(filepath.Join(q.repo, "objects", "pack", "pack-"+hash+".idx"))
		if err != nil {
			return nil, fmt.Errorf("git %s: %w", q.name, err)
		}
		err = q.m.git.Lines(ctx, q.repo, idx, func(line string) error {
			fields := strings.Fields(line) // offset, id, (crc)
			if len(fields) < 2 {
				return fmt.Errorf("git show-index: line %.100q", line)
			}
			o, err := parseOID(fields[1])
			all = append(all, o)
			return err
		}, "show-index")
		_ = idx.Close()
		if err != nil {
			return nil, fmt.Errorf("git %s: %w", q.name, err)
		}
	}
	slices.SortFunc(all, compareOID)
	return slices.Compact(all), nil
}

func compareOID(a, b oid) int { return bytes.Compare(a[:], b[:]) }
