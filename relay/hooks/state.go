package hooks

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/plimsoll/plimsoll/internal/durable"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

const (
	stateVersion = "plimsoll.hooks-state.v1"
	maxState     = 32 << 20
)

// stateDocument is hooks-state.json. Its loss costs that everybody is told once more.
type stateDocument struct {
	APIVersion string      `json:"apiVersion"`
	Served     *Served     `json:"served,omitempty"` // with what the hooks' pending is complete; absent: that is not known
	Hooks      []hookState `json:"hooks"`            // sorted by name
}

// hookState is what is known of one hook.
type hookState struct {
	Name     string   `json:"name"`
	Target   string   `json:"target"`             // says whether the hook is still the same
	Told     uint64   `json:"told,omitempty"`     // the last generation that it was told of
	ToldAt   string   `json:"toldAt,omitempty"`   // RFC 3339, as all times here
	Pending  *pending `json:"pending,omitempty"`  // what it has not been told
	Attempts int      `json:"attempts,omitempty"` // to tell it that
	TriedAt  string   `json:"triedAt,omitempty"`
	Error    string   `json:"error,omitempty"` // of the last attempt
	Left     int      `json:"left,omitempty"`  // refs of the last generation that were too many to be told
	GaveUp   bool     `json:"gaveUp,omitempty"`
}

// target tells hooks apart that have one name one after the other.
func target(h Hook) string {
	sum := sha256.Sum256([]byte(string(h.Type) + "\n" + string(h.URL)))
	return hex.EncodeToString(sum[:8])
}

// readState reads what a relay that ran before has left; without a file it is empty.
func readState(dir string) (stateDocument, error) {
	empty := stateDocument{APIVersion: stateVersion}
	f, err := os.Open(filepath.Join(dir, StateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return empty, err
	}
	defer f.Close() //nolint:errcheck // only read from
	data, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err != nil {
		return empty, err
	}
	doc, err := parseState(data)
	if err != nil {
		return empty, fmt.Errorf("%s: %w", StateFile, err)
	}
	return doc, nil
}

func parseState(data []byte) (stateDocument, error) {
	if len(data) > maxState {
		return stateDocument{}, fmt.Errorf("more than %d bytes", maxState)
	}
	var doc stateDocument
	if err := strictjson.UnmarshalCanonical(data, &doc); err != nil {
		return stateDocument{}, err
	}
	if doc.APIVersion != stateVersion {
		return stateDocument{}, fmt.Errorf("apiVersion %.80q, this version reads %q", doc.APIVersion, stateVersion)
	}
	if len(doc.Hooks) > maxHooks {
		return stateDocument{}, fmt.Errorf("%d hooks, the limit is %d", len(doc.Hooks), maxHooks)
	}
	return doc, nil
}

// writeState writes it with mode 0600: it shows what is pulled here, and from where.
func writeState(dir string, doc stateDocument) error {
	doc.APIVersion = stateVersion
	if doc.Hooks == nil {
		doc.Hooks = []hookState{}
	}
	data, err := strictjson.Marshal(doc)
	if err != nil {
		return err
	}
	if len(data) > maxState { // then a restart tells everybody of everything
		doc.Served = nil
		if data, err = strictjson.Marshal(doc); err != nil {
			return err
		}
	}
	return durable.WriteFile(filepath.Join(dir, StateFile), data, 0o600)
}

// State is how it stands with a hook.
type State string

// The states of a hook.
const (
	Idle    State = "idle"    // nothing was to be told yet
	Told    State = "told"    // it has been told of all that concerns it
	Waiting State = "waiting" // it is going to be told
	Failing State = "failing" // an attempt went wrong; there will be others
	GaveUp  State = "gave up" // until the next generation, change of the hook, or start
)

// Status says how it stands with one hook. It has no secret.
type Status struct {
	Name       string   `json:"name"`
	Type       Type     `json:"type"`
	Place      string   `json:"place"` // scheme and host of the URL
	Channels   []string `json:"channels,omitempty"`
	State      State    `json:"state"`
	Generation uint64   `json:"generation"`         // the last that it was told of; 0: none
	Told       string   `json:"told,omitempty"`     // when, RFC 3339
	Attempts   int      `json:"attempts,omitempty"` // to tell it of what it has not been told
	Tried      string   `json:"tried,omitempty"`    // when last
	Error      string   `json:"error,omitempty"`    // why not
	Left       int      `json:"left,omitempty"`     // refs of that generation that were too many to be told

	Successes uint64 `json:"-"` // news that it was told of, and attempts that failed, since the start
	Failures  uint64 `json:"-"`
}

func (st hookState) status(h Hook) Status {
	s := Status{
		Name: h.Name, Type: h.Type, Place: h.Place(), Channels: h.Channels, State: Idle, Generation: st.Told, Told: st.ToldAt,
		Attempts: st.Attempts, Tried: st.TriedAt, Error: st.Error, Left: st.Left,
	}
	switch {
	case st.GaveUp:
		s.State = GaveUp
	case st.Pending != nil && st.Attempts > 0:
		s.State = Failing
	case st.Pending != nil:
		s.State = Waiting
	case st.Told > 0:
		s.State = Told
	}
	return s
}

// ReadStatus says how it stands with the hooks of a data folder, by what the serving relay has written.
func ReadStatus(dir string) ([]Status, error) {
	hooks, err := Open(dir).Hooks()
	if err != nil {
		return nil, err
	}
	doc, err := readState(dir)
	if err != nil {
		return nil, fmt.Errorf("hooks: %w", err)
	}
	all := make([]Status, 0, len(hooks))
	for _, h := range hooks {
		var mine hookState
		for _, st := range doc.Hooks {
			if st.Name == h.Name && st.Target == target(h) {
				mine = st
			}
		}
		all = append(all, mine.status(h))
	}
	return all, nil
}

func stamp(t time.Time) string { return t.UTC().Truncate(time.Second).Format(time.RFC3339) }
