package relay

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"

	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/registry/store"
	"github.com/plimsoll/plimsoll/relay/admin"
)

const (
	scrubRate  = 16 << 20            // bytes a second, if nothing else is set
	scrubEvery = 30 * 24 * time.Hour // likewise

	scrubLook    = time.Minute      // how often is looked whether it is time, by a clock that may be set meanwhile
	scrubSlice   = 2 * time.Minute  // after which settings are read, and suspects looked at
	scrubDelay   = 10 * time.Minute // after a start, when robots that waited pull all at once
	healEvery    = time.Hour        // between two tries to heal from the same places
	maxSuspects  = 64               // blobs that wait to be looked at
	suspectAgain = time.Minute      // before the same blob is looked at again
)

// ScrubberOptions are what a Scrubber works with. The zero value reports nothing and heals from nowhere.
type ScrubberOptions struct {
	Log     *slog.Logger
	Metrics *admin.Metrics
	Delay   time.Duration // before it begins; 10 minutes if 0

	// Open opens a place from which releases came, to heal from it; media.OpenSource in the way that it says. May be nil.
	Open func(ctx context.Context, o Origin) (media.Source, error)
}

// Scrubber reads blobs again while the relay serves, and heals what it can.
type Scrubber struct {
	relay    *Relay
	options  ScrubberOptions
	log      *slog.Logger
	suspects chan digest.Digest

	trouble  map[string]string           // doing what → what the log was last told of it
	looked   map[digest.Digest]time.Time // suspects
	tried    time.Time                   // the last healing; zero: none, or something new is missing
	gitTried time.Time                   // the last repair of the mirror that was tried again
	left     int                         // what is missing, as it was last told
}

// NewScrubber makes one; Run does its work.
func (r *Relay) NewScrubber(o ScrubberOptions) *Scrubber {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Delay == 0 {
		o.Delay = scrubDelay
	}
	return &Scrubber{
		relay: r, options: o, log: o.Log, suspects: make(chan digest.Digest, maxSuspects), looked: make(map[digest.Digest]time.Time),
		trouble: make(map[string]string),
	}
}

// Suspect has a blob looked at soon, because it could not be served. It never waits, and may forget some of many.
func (s *Scrubber) Suspect(d digest.Digest) {
	select {
	case s.suspects <- d:
	default:
	}
}

// Run works until ctx ends. Trouble with the disk is reported and tried again: it is no error.
func (s *Scrubber) Run(ctx context.Context) error {
	began := time.Now()
	ticker := time.NewTicker(scrubLook)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case d := <-s.suspects:
			s.suspect(ctx, d)
		case <-ticker.C:
			if time.Since(began) >= s.options.Delay {
				s.look(ctx)
			}
		}
	}
}

// look does what it is time for.
func (s *Scrubber) look(ctx context.Context) {
	clear(s.looked)
	settings, err := s.relay.Settings(ctx)
	if err != nil {
		s.report("scrub", err)
		return
	}
	for ctx.Err() == nil {
		until, due := settings.Scrub.due(time.Now(), s.relay.readScrubState())
		if !due {
			break
		}
		// What is in S3 its servers look after; the Git mirror is on the disk of this machine all the same.
		res, err := s.relay.Scrub(ctx, ScrubOptions{Rate: settings.Scrub.BytesPerSecond(), Until: until, Found: s.found, gitOnly: s.relay.remote})
		s.report("scrub", err)
		s.gitScrubbed(&res.Git)
		if s.options.Metrics != nil {
			s.options.Metrics.Scrubbed(res.Checked, res.Bytes, res.Whole)
		}
		if res.Whole && !s.relay.remote {
			s.log.Info("all blobs were read again", "flaky", res.Flaky)
		}
		if len(res.Damaged)+len(res.Unreadable) > 0 {
			s.tried = time.Time{}
		}
		if err != nil || res.Whole || len(s.suspects) > 0 {
			break
		}
		if settings, err = s.relay.Settings(ctx); err != nil {
			s.report("scrub", err)
			break
		}
	}
	if !s.relay.remote && (s.tried.IsZero() || time.Since(s.tried) >= healEvery) {
		s.heal(ctx)
	}
	s.healGit(ctx)
}

// suspect looks at one blob now.
func (s *Scrubber) suspect(ctx context.Context, d digest.Digest) {
	if time.Since(s.looked[d]) < suspectAgain || len(s.looked) >= maxSuspects {
		return
	}
	s.looked[d] = time.Now()
	seen, err := s.relay.store.Check(ctx, d, nil)
	if store.IsDamage(err) {
		seen, err = s.relay.store.Check(ctx, d, nil)
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	w := &scrubbing{relay: s.relay, options: ScrubOptions{Found: s.found}, limit: rate.NewLimiter(rate.Inf, scrubBurst)}
	switch {
	case store.IsDamage(err):
		w.damaged(ctx, d, seen, err)
		err = nil
	case !errors.Is(err, fs.ErrNotExist):
		w.unread = []digest.Digest{d}
		w.result.Checked = s.alive(ctx)
		err = w.unreadable(ctx)
	default:
		err = nil
	}
	s.report("suspect", errors.Join(append(w.failed, err)...))
	if s.relay.remote || s.tried.IsZero() || time.Since(s.tried) >= suspectAgain {
		s.heal(ctx)
	}
}

// alive is how many of the active releases' indexes the disk gives: none when it is dead or unplugged.
func (s *Scrubber) alive(ctx context.Context) (n int) {
	active, _, err := readActive(ctx, s.relay.docs)
	if err != nil {
		return 0
	}
	for _, c := range active.Channels {
		if _, err := s.relay.store.Check(ctx, c.Release.Bundle.Digest, nil); err == nil {
			n++
		}
	}
	return n
}

func (s *Scrubber) found(bad BadBlob) {
	s.log.Error("a blob is damaged", "digest", bad.Digest, "reason", bad.Reason, "quarantined", bad.Quarantined, "uses", bad.Uses)
	if s.options.Metrics != nil {
		s.options.Metrics.BlobDamaged()
	}
}

// report logs trouble once, and that it is over.
func (s *Scrubber) report(what string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	switch {
	case text == s.trouble[what]:
	case text == "":
		s.log.Info("the store can be looked after again", "doing", what)
	case !errors.Is(err, context.Canceled):
		s.log.Error("the store cannot be looked after", "doing", what, "error", err)
	}
	s.trouble[what] = text
}

// heal brings what is missing from where the releases came, as far as that can be reached.
func (s *Scrubber) heal(ctx context.Context) {
	s.tried = time.Now()
	left, err := s.relay.missing(ctx, func(context.Context, digest.Digest) []BlobUse { return nil })
	s.report("heal", err)
	for _, place := range s.places(ctx, len(left)) {
		if ctx.Err() != nil || len(left) == 0 {
			break
		}
		left = s.healFrom(ctx, place, left)
	}
	if s.options.Metrics != nil {
		s.options.Metrics.BlobsMissing(len(left))
	}
	if len(left) > 0 && len(left) != s.left {
		s.log.Error("blobs are missing; see 'plimsoll-relay heal'", "blobs", len(left), "first", left[0].Digest)
	}
	s.left = len(left)
}

// places lists where the releases that are here came from and what can be named from here: registries, and files by their
// whole path, which may be on a stick that is still, or again, plugged in.
func (s *Scrubber) places(ctx context.Context, missing int) (all []Origin) {
	if missing == 0 || s.options.Open == nil {
		return nil
	}
	recs, err := s.relay.records(ctx)
	if err != nil {
		return nil
	}
	for _, rec := range recs {
		o := rec.Origin()
		if (isRegistry(o.From) || filepath.IsAbs(o.From)) && !slices.Contains(all, o) {
			all = append(all, o)
		}
	}
	return all
}

func (s *Scrubber) healFrom(ctx context.Context, o Origin, left []BadBlob) []BadBlob {
	ref := o.From
	src, err := s.options.Open(ctx, o)
	if err != nil {
		level := slog.LevelDebug // a medium that is not plugged in
		if isRegistry(ref) {
			level = slog.LevelWarn // opening asks nobody: its CA file is gone, or what this machine has of credentials is wrong
		}
		s.log.Log(ctx, level, "a place to heal from cannot be opened", "from", ref, "error", err)
		return left
	}
	defer src.Close() //nolint:errcheck // only read from
	res, err := s.relay.Heal(ctx, src, HealOptions{From: ref})
	if err != nil {
		s.log.Warn("healing", "from", ref, "error", err)
	}
	if res == nil {
		return left
	}
	if len(res.Healed) > 0 {
		s.log.Info("blobs were healed", "from", ref, "blobs", len(res.Healed), "bytes", res.Bytes)
		if s.options.Metrics != nil {
			s.options.Metrics.BlobsHealed(len(res.Healed))
		}
	}
	return res.Left
}

// BytesPerSecond is how fast blobs are read again.
func (s Scrub) BytesPerSecond() int64 {
	if s.Rate == 0 {
		return scrubRate
	}
	return s.Rate
}

// Interval is how old the last check of a blob may become.
func (s Scrub) Interval() time.Duration {
	if d, err := time.ParseDuration(s.Every); err == nil {
		return d
	}
	return scrubEvery
}

// due tells whether it is time to read blobs again, and until when. Clocks lie: a pass that began in the future is due.
func (s Scrub) due(now time.Time, st scrubState) (until time.Time, due bool) {
	if s.Off {
		return time.Time{}, false
	}
	until, quiet := s.Quiet(now)
	if !quiet {
		return time.Time{}, false
	}
	if st.Ended != "" {
		began, err := time.Parse(time.RFC3339, st.Began)
		if since := now.Sub(began); err == nil && since >= 0 && since < s.Interval() {
			return time.Time{}, false
		}
	}
	if slice := now.Add(scrubSlice); until.IsZero() || slice.Before(until) {
		until = slice
	}
	return until, true
}

// Quiet tells whether a time is within the quiet hours, and when these end: the zero time if they never do.
func (s Scrub) Quiet(now time.Time) (until time.Time, quiet bool) {
	if s.From == s.To {
		return time.Time{}, true
	}
	from, err1 := time.Parse(clockFormat, s.From)
	to, err2 := time.Parse(clockFormat, s.To)
	if err1 != nil || err2 != nil {
		return time.Time{}, false
	}
	at := func(clock time.Time, days int) time.Time {
		return time.Date(now.Year(), now.Month(), now.Day()+days, clock.Hour(), clock.Minute(), 0, 0, now.Location())
	}
	for days := -1; days <= 0; days++ { // yesterday's night may go on
		begin, end := at(from, days), at(to, days)
		if to.Before(from) {
			end = at(to, days+1)
		}
		if !now.Before(begin) && now.Before(end) {
			return end, true
		}
	}
	return time.Time{}, false
}
