package relay

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/internal/progress"
	"github.com/plimsoll/plimsoll/relay/admin"
)

// stopAfter cancels after some progress.
type stopAfter struct {
	mu     sync.Mutex
	n      int
	cancel context.CancelFunc
}

func (s *stopAfter) report(progress.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n--; s.n == 0 {
		s.cancel()
	}
}

func at(text string) time.Time {
	t, err := time.ParseInLocation("2006-01-02 15:04", text, time.UTC)
	if err != nil {
		panic(err)
	}
	return t
}

func TestQuietHours(t *testing.T) {
	for _, c := range []struct{ from, to, now, until string }{
		{"", "", "2026-03-10 12:00", "always"},
		{"07:00", "07:00", "2026-03-10 12:00", "always"},
		{"22:00", "05:00", "2026-03-10 21:59", ""},
		{"22:00", "05:00", "2026-03-10 22:00", "2026-03-11 05:00"},
		{"22:00", "05:00", "2026-03-11 04:59", "2026-03-11 05:00"},
		{"22:00", "05:00", "2026-03-11 05:00", ""},
		{"22:00", "05:00", "2026-12-31 23:00", "2027-01-01 05:00"},
		{"01:30", "05:00", "2026-03-10 01:29", ""},
		{"01:30", "05:00", "2026-03-10 01:30", "2026-03-10 05:00"},
		{"01:30", "05:00", "2026-03-10 23:00", ""},
		{"nonsense", "05:00", "2026-03-10 01:30", ""},
	} {
		until, quiet := Scrub{From: c.from, To: c.to}.Quiet(at(c.now))
		switch {
		case c.until == "always" && (!quiet || !until.IsZero()),
			c.until == "" && quiet,
			c.until != "" && c.until != "always" && (!quiet || !until.Equal(at(c.until))):
			t.Errorf("%+v: %v, %v", c, until, quiet)
		}
	}
}

// A pass that goes on is due, one that ended is after its time, and a clock that was set back keeps nothing from it.
func TestScrubIsDue(t *testing.T) {
	noon := at("2026-03-10 12:00")
	text := func(d time.Duration) string { return noon.Add(d).Format(time.RFC3339) }
	for name, c := range map[string]struct {
		settings Scrub
		state    scrubState
		due      bool
	}{
		"never":                {Scrub{}, scrubState{}, true},
		"off":                  {Scrub{Off: true}, scrubState{}, false},
		"goes on":              {Scrub{}, scrubState{Began: text(-time.Hour)}, true},
		"ended":                {Scrub{}, scrubState{Began: text(-time.Hour), Ended: text(0)}, false},
		"ended long ago":       {Scrub{}, scrubState{Began: text(-31 * 24 * time.Hour), Ended: text(0)}, true},
		"more often":           {Scrub{Every: "24h"}, scrubState{Began: text(-25 * time.Hour), Ended: text(0)}, true},
		"began in the future":  {Scrub{}, scrubState{Began: text(time.Hour), Ended: text(2 * time.Hour)}, true},
		"began at no time":     {Scrub{}, scrubState{Began: "x", Ended: "y"}, true},
		"outside of its hours": {Scrub{From: "22:00", To: "05:00"}, scrubState{}, false},
	} {
		until, due := c.settings.due(noon, c.state)
		if due != c.due || due && (!until.After(noon) || until.Sub(noon) > scrubSlice) {
			t.Errorf("%s: %v, %v", name, until, due)
		}
	}
}

// lockedBuffer is a log.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// background runs a scrubber of a relay in a bubble with a clock of its own until what ends.
func background(t *testing.T, r *Relay, reach *atomic.Bool, what func(s *Scrubber, log *lockedBuffer)) {
	t.Helper()
	log := new(lockedBuffer)
	s := r.NewScrubber(ScrubberOptions{
		Log: slog.New(slog.NewTextHandler(log, nil)), Metrics: admin.NewMetrics(admin.MetricsOptions{}),
		Open: func(ctx context.Context, o Origin) (media.Source, error) {
			if !reach.Load() {
				return nil, os.ErrNotExist
			}
			return media.OpenSource(ctx, o.From, media.Options{PlainHTTP: o.PlainHTTP, CAFile: o.CAFile})
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	what(s, log)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// While a relay serves, damage is found after a start or within the next pass, and is healed from where the release came
// from as soon as that can be reached.
func TestScrubberFindsAndHeals(t *testing.T) {
	r, b, journal, _ := stack(t)
	synctest.Test(t, func(t *testing.T) {
		reach := new(atomic.Bool)
		background(t, r, reach, func(_ *Scrubber, log *lockedBuffer) {
			r.flip(t, b.Layer.Digest)
			time.Sleep(scrubDelay - time.Second)
			synctest.Wait()
			if log.String() != "" {
				t.Errorf("too early: %s", log)
			}
			time.Sleep(2 * scrubLook)
			synctest.Wait()
			if _, err := r.store.Size(t.Context(), b.Layer.Digest); err == nil || !strings.Contains(log.String(), "a blob is damaged") {
				t.Errorf("it was not found: %s", log)
			}
			if n := strings.Count(log.String(), "blobs are missing"); n != 1 {
				t.Errorf("told %d times: %s", n, log)
			}
			reach.Store(true)
			time.Sleep(healEvery + scrubLook)
			synctest.Wait()
			if _, err := r.store.Size(t.Context(), b.Layer.Digest); err != nil || !strings.Contains(log.String(), "healed") {
				t.Errorf("it was not healed: %v %s", err, log)
			}
			// Every 30 days.
			r.flip(t, b.Root.Digest)
			time.Sleep(scrubEvery - 3*time.Hour)
			synctest.Wait()
			if strings.Count(log.String(), "a blob is damaged") != 1 {
				t.Errorf("too early: %s", log)
			}
			time.Sleep(4 * time.Hour)
			synctest.Wait()
			if strings.Count(log.String(), "a blob is damaged") != 2 || strings.Count(log.String(), "healed") != 2 {
				t.Errorf("not again: %s", log)
			}
		})
	})
	if got := strings.Join(journal.all(), " "); got != "blob-damaged blob-healed blob-damaged blob-healed" {
		t.Errorf("journal: %s", got)
	}
}

// A blob that a robot could not get is looked at and healed at once.
func TestScrubberSuspects(t *testing.T) {
	r, b, _, _ := stack(t)
	synctest.Test(t, func(t *testing.T) {
		reach := new(atomic.Bool)
		reach.Store(true)
		background(t, r, reach, func(s *Scrubber, log *lockedBuffer) {
			r.flip(t, b.Layer.Digest)
			if err := os.Remove(r.blobFile(b.Root.Digest)); err != nil {
				t.Fatal(err)
			}
			for range 3 * maxSuspects { // it never blocks
				s.Suspect(b.Layer.Digest)
			}
			synctest.Wait()
			for _, d := range []string{b.Layer.Digest.String(), b.Root.Digest.String()} {
				if _, err := os.Stat(r.blobFile(b.Layer.Digest)); err != nil {
					t.Errorf("%s was not healed: %v\n%s", d, err, log)
				}
			}
			if strings.Count(log.String(), "a blob is damaged") != 1 {
				t.Error(log)
			}
		})
	})
}

// Switched off, and outside of the quiet hours, nothing is read.
func TestScrubberKeepsQuiet(t *testing.T) {
	for name, set := range map[string]func(s *Settings){
		"off":   func(s *Settings) { s.Scrub.Off = true },
		"hours": func(s *Settings) { s.Scrub.From, s.Scrub.To = "03:00", "03:01" },
	} {
		r, b, _, _ := stack(t)
		if _, err := r.ChangeSettings(t.Context(), func(s *Settings) error {
			set(s)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		r.flip(t, b.Layer.Digest)
		synctest.Test(t, func(t *testing.T) {
			reach := new(atomic.Bool)
			reach.Store(true)
			// A bubble's clock begins at midnight UTC; the quiet hours are by the local clock.
			background(t, r, reach, func(_ *Scrubber, log *lockedBuffer) {
				now := time.Now()
				night := time.Date(now.Year(), now.Month(), now.Day()+1, 3, 0, 0, 0, time.Local)
				time.Sleep(night.Sub(now) - time.Second)
				synctest.Wait()
				early := log.String()
				time.Sleep(3 * scrubLook)
				synctest.Wait()
				if name == "hours" && night.Sub(now) <= 24*time.Hour && (early != "" || !strings.Contains(log.String(), "healed")) {
					t.Errorf("%s: %s", name, log)
				}
				if name == "off" && log.String() != "" {
					t.Errorf("%s: %s", name, log)
				}
			})
		})
	}
}
