package hooks

import (
	"context"

	"github.com/plimsoll/plimsoll/relay/journal"
)

// The kinds of the journal's records about changes of hooks; JournalKind is that of what hooks were told. Each has another
// with -done or -refused after it, when the file was written or was not.
const (
	kindAdd    = "hook-add"
	kindRemove = "hook-remove"
)

// SetJournal says where changes are recorded, before there is one: an error of Append keeps it from being made. Without a
// journal they are not recorded.
func (s *Store) SetJournal(j Journal) { s.journal = j }

// recordedHook is what the journal says of a hook: where it is told, without what only the other side may know.
type recordedHook struct {
	Name             string   `json:"name"`
	Type             Type     `json:"type"`
	Place            string   `json:"place"`  // scheme and host of the URL
	Signed           bool     `json:"signed"` // what is sent is
	Token            bool     `json:"token"`  // one is sent
	CAFile           string   `json:"caFile,omitempty"`
	InsecurePlain    bool     `json:"insecurePlainHTTP,omitempty"`
	InsecureUnsigned bool     `json:"insecureUnsigned,omitempty"`
	Channels         []string `json:"channels,omitempty"`
	Applications     []string `json:"applications,omitempty"`
}

// recorded runs write between two records of what it does to the hook with a name, which is one of hooks.
func (s *Store) recorded(ctx context.Context, kind, name string, hooks []Hook, write func() error) error {
	i, found := find(hooks, name)
	if s.journal == nil || !found {
		return write()
	}
	h := hooks[i]
	return journal.Change(ctx, s.journal, kind, name, recordedHook{
		Name: h.Name, Type: h.Type, Place: h.Place(), Signed: h.Secret != "", Token: h.Token != "", CAFile: h.CAFile,
		InsecurePlain: h.InsecurePlain, InsecureUnsigned: h.InsecureUnsigned, Channels: h.Channels, Applications: h.Applications,
	}, write)
}
