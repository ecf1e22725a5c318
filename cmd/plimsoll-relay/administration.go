package main

import (
	"fmt"
	"net/http"

	"github.com/plimsoll/plimsoll/relay/access"
	"github.com/plimsoll/plimsoll/relay/admin"
	"github.com/plimsoll/plimsoll/relay/hooks"
	"github.com/plimsoll/plimsoll/relay/traffic"
)

// adminHandler is what administrators see of a serving relay.
func (w *wiring) adminHandler() (http.Handler, error) {
	networks, err := w.flags.networks()
	if err != nil {
		return nil, err
	}
	w.metrics.Watch(w.sources())
	return admin.Handler(admin.Options{
		Metrics: w.metrics,
		Ready: func() (string, error) {
			return fmt.Sprintf("serving generation %d", w.server.Generation().Number()), nil
		},
		Reload: w.reload,
		Allow: func(r *http.Request) error {
			who, err := w.guard.Identify(r)
			if err != nil {
				return err
			}
			return w.guard.Require(r, who, access.RoleAdmin)
		},
		Refuse:   w.guard.Refuse,
		Networks: networks,
		Names:    w.flags.names,
	}), nil
}

// sources are what metrics ask when they are read.
func (w *wiring) sources() admin.Sources {
	queue := func(q func() traffic.QueueStats) func() admin.Queue {
		return func() admin.Queue {
			s := q()
			return admin.Queue{Running: s.Running, Waiting: s.Waiting}
		}
	}
	s := admin.Sources{
		Queues: map[string]func() admin.Queue{
			"blobs":    queue(func() traffic.QueueStats { return w.traffic.Stats().Blobs }),
			"git-refs": queue(w.adverts.Stats),
			"git":      queue(w.packs.Stats),
		},
		Connections: func() admin.Connections {
			st := w.traffic.Stats()
			return admin.Connections{Open: st.Connections, Parked: st.Parked}
		},
		Hooks: func() (all []admin.Hook) {
			for _, h := range w.hooks.Status() {
				all = append(all, admin.Hook{
					Name: h.Name, Pending: h.State != hooks.Told && h.State != hooks.Idle, Told: h.Successes, Failed: h.Failures,
				})
			}
			return all
		},
		GitProcesses: func() int { return w.adverts.Stats().Running + w.packs.Stats().Running },
		Generation:   func() uint64 { return w.server.Generation().Number() },
		Releases: func() []admin.Release {
			var all []admin.Release
			for _, s := range w.server.Generation().Active.Channels {
				all = append(all, admin.Release{Name: s.Name, Version: s.Release.Version, Digest: s.Release.Bundle.Digest.String()})
			}
			return all
		},
	}
	if w.keeper != nil {
		s.CertificateEnd, s.CAEnd = w.keeper.Ends, w.keeper.CA().Ends
	}
	if w.seen != nil {
		s.Recording = func() admin.Recording {
			st := w.seen.Stats()
			return admin.Recording{Recorded: st.Recorded, Dropped: st.Dropped, Paused: st.Paused}
		}
	}
	return s
}
