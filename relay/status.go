package relay

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/bundle"
)

// Status is what the data folder says about the relay.
type Status struct {
	Generation  uint64          `json:"generation"`
	Channels    []ChannelStatus `json:"channels"`
	Staged      []Record        `json:"staged"`      // imported, not served and not kept by a channel
	Pinned      []Pin           `json:"pinned"`      //
	Promised    []digest.Digest `json:"promised"`    // bundles that the last receipt said to be here
	Precedence  []string        `json:"precedence"`  // of channels that serve the same names
	Keep        int             `json:"keep"`        // releases of each channel
	ReleaseKeys []string        `json:"releaseKeys"` // ids of the trusted release keys
}

// ChannelStatus is one channel with the releases that are here.
type ChannelStatus struct {
	Name     string   `json:"name"`
	Active   Record   `json:"active"`
	Previous []Record `json:"previous"` // kept, the latest served first
}

// Upstreams lists the registries whose images the active releases carry, sorted: ghcr.io, docker.io …
func (r *Relay) Upstreams(ctx context.Context) ([]string, error) {
	active, _, err := readActive(ctx, r.docs)
	if err != nil {
		return nil, err
	}
	hosts := make(map[string]struct{})
	for _, s := range active.Channels {
		b, err := bundle.Load(ctx, r.store, s.Release.Bundle)
		if err != nil {
			return nil, fmt.Errorf("release %s: %w", s.Release, err)
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
func (r *Relay) Status(ctx context.Context) (Status, error) {
	st := Status{
		Channels: []ChannelStatus{}, Staged: []Record{}, ReleaseKeys: []string{}, Pinned: []Pin{}, Promised: []digest.Digest{}, Precedence: []string{},
	}
	active, _, err := readActive(ctx, r.docs)
	if err != nil {
		return st, err
	}
	settings, err := r.Settings(ctx)
	if err != nil {
		return st, err
	}
	promised, err := r.promised(ctx)
	if err != nil {
		return st, err
	}
	st.Generation, st.Keep = active.Generation, settings.KeepReleases()
	st.Pinned = append(st.Pinned, active.Pins...)
	st.Promised = append(st.Promised, promised...)
	st.Precedence = append(st.Precedence, active.Precedence...)
	staged, err := r.records(ctx)
	if err != nil {
		return st, err
	}
	all := make(map[digest.Digest]Record, len(staged))
	for _, rec := range staged {
		all[rec.Bundle.Digest] = rec
	}
	inChannel := make(map[digest.Digest]bool)
	take := func(rel Release) (Record, error) {
		rec, ok := all[rel.Bundle.Digest]
		if !ok {
			return Record{}, fmt.Errorf("release %s: %s is active or kept, but its record is missing", rel, rel.Bundle.Digest)
		}
		inChannel[rel.Bundle.Digest] = true
		return rec, nil
	}
	for _, s := range active.Channels {
		row := ChannelStatus{Name: s.Name, Previous: []Record{}}
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
		st.Channels = append(st.Channels, row)
	}
	for _, rec := range staged {
		if !inChannel[rec.Bundle.Digest] {
			st.Staged = append(st.Staged, rec)
		}
	}
	slices.SortFunc(st.Staged, func(a, b Record) int { return strings.Compare(a.Name+"\x00"+a.Version, b.Name+"\x00"+b.Version) })
	st.ReleaseKeys, err = r.trustedKeyIDs()
	return st, err
}
