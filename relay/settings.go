package relay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/plimsoll/plimsoll/internal/strictjson"
	"github.com/plimsoll/plimsoll/relay/state"
)

const (
	settingsFile    = "settings.json"
	settingsVersion = "plimsoll.settings.v1"

	defaultKeep = 3
	minKeep     = 2 // the active release and one to roll back to
	maxKeep     = 64

	clockFormat = "15:04" // of a time of day
)

// Settings are what an operator decides about a relay as long as it runs. The zero value of a field is its default.
type Settings struct {
	APIVersion string `json:"apiVersion"`
	Keep       int    `json:"keep,omitempty"` // releases of each channel, the active one among them; 3 if 0, at least 2
	Scrub      Scrub  `json:"scrub,omitzero"`
}

// Scrub says when blobs are read again to see whether the disk has kept them.
type Scrub struct {
	Off   bool   `json:"off,omitempty"`
	Rate  int64  `json:"rate,omitempty"`  // bytes per second; 16 MiB/s if 0
	Every string `json:"every,omitempty"` // how old a blob's last check may become, as Go's durations are written; 30 days if empty
	From  string `json:"from,omitempty"`  // quiet hours by the box's clock, "22:00" to "05:00"; any time if both are empty
	To    string `json:"to,omitempty"`
}

// Validate says what is wrong with settings.
func (s Settings) Validate() error {
	if s.APIVersion != settingsVersion {
		return fmt.Errorf("apiVersion %q, this version reads %q", s.APIVersion, settingsVersion)
	}
	if s.Keep != 0 && (s.Keep < minKeep || s.Keep > maxKeep) {
		return fmt.Errorf("keep is %d, want %d to %d", s.Keep, minKeep, maxKeep)
	}
	return s.Scrub.validate()
}

func (s Scrub) validate() error {
	if s.Rate < 0 {
		return fmt.Errorf("scrub: rate %d", s.Rate)
	}
	if s.Every != "" {
		if d, err := time.ParseDuration(s.Every); err != nil || d < time.Hour {
			return fmt.Errorf("scrub: every %q, want at least 1h", s.Every)
		}
	}
	if (s.From == "") != (s.To == "") {
		return errors.New("scrub: quiet hours need from and to")
	}
	for _, at := range []string{s.From, s.To} {
		if at == "" {
			continue
		}
		if _, err := time.Parse(clockFormat, at); err != nil {
			return fmt.Errorf("scrub: %q is no time of day, want 22:00", at)
		}
	}
	return nil
}

// KeepReleases is how many releases of a channel stay.
func (s Settings) KeepReleases() int {
	if s.Keep == 0 {
		return defaultKeep
	}
	return s.Keep
}

// CheckChannel says what is wrong with a channel's name.
func CheckChannel(name string) error {
	ok := len(name) > 0 && len(name) <= 128
	for i, c := range name {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || i > 0 && (c == '-' || c == '.' || c == '_'))
	}
	if !ok {
		return fmt.Errorf("channel %.140q: want 1 to 128 of a-z, 0-9, '-', '.', '_', the first a letter or digit", name)
	}
	return nil
}

// Settings reads what the operator decided.
func (r *Relay) Settings(ctx context.Context) (Settings, error) {
	s, _, err := r.readSettings(ctx)
	return s, err
}

func (r *Relay) readSettings(ctx context.Context) (Settings, state.Version, error) {
	s := Settings{APIVersion: settingsVersion}
	doc, err := r.docs.Read(ctx, settingsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return s, state.None, nil
	}
	if err == nil {
		s = Settings{}
		if err = strictjson.UnmarshalCanonical(doc.Data, &s); err == nil {
			err = s.Validate()
		}
	}
	if err != nil {
		return s, state.None, fmt.Errorf("%s: %w", settingsFile, err)
	}
	return s, doc.Version, nil
}

// ChangeSettings reads the settings, lets fn change them, and writes them when they are valid.
func (r *Relay) ChangeSettings(ctx context.Context, fn func(*Settings) error) (Settings, error) {
	var s Settings
	err := r.change(ctx, func() error {
		have, version, err := r.readSettings(ctx)
		if err != nil {
			return err
		}
		s = have
		if err := fn(&s); err != nil {
			return err
		}
		if err := s.Validate(); err != nil {
			return &SettingsError{Err: err}
		}
		data, err := strictjson.Marshal(s)
		if err != nil {
			return err
		}
		if s == have {
			return nil
		}
		return r.writeSettings(ctx, s, data, version)
	})
	return s, err
}

// writeSettings replaces the settings between two records.
func (r *Relay) writeSettings(ctx context.Context, s Settings, data []byte, replaces state.Version) error {
	const kind = "settings"
	if err := r.record(ctx, kind, s); err != nil {
		return err
	}
	if _, err := r.docs.Write(ctx, settingsFile, data, replaces); err != nil {
		err = fmt.Errorf("%s: %w", settingsFile, err)
		r.note(ctx, kind+"-refused", refusedSettings{err.Error()})
		return err
	}
	r.note(ctx, kind+"-done", s)
	return nil
}

// refusedSettings is what the journal says of settings that were not written.
type refusedSettings struct {
	Reason string `json:"reason"`
}

// SettingsError says that settings were refused.
type SettingsError struct{ Err error }

func (e *SettingsError) Error() string { return "settings: " + e.Err.Error() }
func (e *SettingsError) Unwrap() error { return e.Err }
