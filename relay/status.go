package relay

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/plimsoll/plimsoll/bundle"
)

// Status is what the data folder says about the relay.
type Status struct {
	Generation  uint64         `json:"generation"`
	Streams     []StreamStatus `json:"streams"`
	Staged      []Record       `json:"staged"`      // imported, never activated
	ReleaseKeys []string       `json:"releaseKeys"` // ids of the trusted release keys
}

// StreamStatus is one bundle name with the releases that are here.
type StreamStatus struct {
	Name     string   `json:"name"`
	Active   Record   `json:"active"`
	Previous []Record `json:"previous"` // kept, the latest served first
}

// Upstreams lists the registries whose images the active releases carry, sorted: ghcr.io, docker.io …
func (r *Relay) Upstreams(ctx context.Context) ([]string, error) {
	active, err := readActive(r.dir)
	if err != nil {
		return nil, err
	}
	hosts := make(map[string]struct{})
	for _, s := range active.Streams {
		b, err := bundle.Load(ctx, r.store, s.Release.Bundle)
		if err != nil {
			return nil, fmt.Errorf("release %s %s: %w", s.Name, s.Release.Version, err)
		}
		for _, it := range b.Lock.Items {
			// As in image references: the first part is a host if it could not be anything else.
			host, _, ok := strings.Cut(it.Repository, "/")
			if it.Kind == bundle.KindImage && ok && (strings.ContainsAny(host, ".:") || host == "localhost") {
				hosts[host] = struct{}{}
			}
		}
	}
	return slices.Sorted(maps.Keys(hosts)), nil
}

// Status reads the data folder; it changes nothing.
func (r *Relay) Status() (Status, error) {
	st := Status{Streams: []StreamStatus{}, Staged: []Record{}, ReleaseKeys: []string{}}
	active, err := readActive(r.dir)
	if err != nil {
		return st, err
	}
	st.Generation = active.Generation
	staged, err := r.records()
	if err != nil {
		return st, err
	}
	take := func(rel Release) (Record, error) {
		i := slices.IndexFunc(staged, func(rec Record) bool { return rec.Bundle.Digest == rel.Bundle.Digest })
		if i < 0 {
			return Record{}, fmt.Errorf("release %s: %s is active or kept, but its record is missing", rel.Version, rel.Bundle.Digest)
		}
		rec := staged[i]
		staged = slices.Delete(staged, i, i+1)
		return rec, nil
	}
	for _, s := range active.Streams {
		row := StreamStatus{Name: s.Name, Previous: []Record{}}
		if row.Active, err = take(s.Release); err != nil {
			return st, err
		}
		for _, p := range s.Previous {
			rec, err := take(p)
			if err != nil {
				return st, err
			}
			row.Previous = append(row.Previous, rec)
		}
		st.Streams = append(st.Streams, row)
	}
	st.Staged = append(st.Staged, staged...)
	slices.SortFunc(st.Staged, func(a, b Record) int { return strings.Compare(a.Name+"\x00"+a.Version, b.Name+"\x00"+b.Version) })
	st.ReleaseKeys, err = r.trustedKeyIDs()
	return st, err
}
