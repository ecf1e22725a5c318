package clock_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/relay/clock"
	"github.com/plimsoll/plimsoll/relay/state"
)

const day = 24 * time.Hour

func date(year int, month time.Month, d int) time.Time {
	return time.Date(year, month, d, 0, 0, 0, 0, time.UTC)
}

var (
	built = date(2026, 11, 1)
	begin = date(2027, 2, 1) // what the time is when a test begins
)

// box is a machine: its clock says what one sets, and time passes.
type box struct {
	docs    state.Documents
	journal clock.Journal

	mu      sync.Mutex
	rtc     time.Time
	elapsed time.Duration
	stuck   bool
}

func newBox(t *testing.T) *box { return &box{docs: state.Dir(t.TempDir()), rtc: begin} }

func (b *box) set(t time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rtc = t
}

func (b *box) pass(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.elapsed += d
	if !b.stuck {
		b.rtc = b.rtc.Add(d)
	}
}

func (b *box) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rtc
}

func (b *box) uptime() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.elapsed
}

// start is a start of the relay.
func (b *box) start(t *testing.T) *clock.Clock {
	t.Helper()
	c, err := clock.Open(t.Context(), b.docs, clock.Sources{RTC: b.now, Elapsed: b.uptime, Built: built, Journal: b.journal})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func want(t *testing.T, c *clock.Clock, state clock.State, at time.Time) {
	t.Helper()
	r := c.Now()
	if r.State != state || !r.Time.Equal(at) {
		t.Errorf("%s, %s, want %s, %s (floor %s, clock %s)", r.State, r.Time, state, at, r.Floor, r.RTC)
	}
	if r.Time.Before(r.Floor) || r.Time.Location() != time.UTC || r.Floor.Location() != time.UTC || r.RTC.Location() != time.UTC {
		t.Errorf("%+v", r)
	}
}

func raise(t *testing.T, c *clock.Clock, signed time.Time) {
	t.Helper()
	if err := c.Raise(t.Context(), signed); err != nil {
		t.Error(err)
	}
}

func refused(t *testing.T, c *clock.Clock, signed time.Time) {
	t.Helper()
	before := c.Now()
	var ahead *clock.AheadError
	if err := c.Raise(t.Context(), signed); !errors.As(err, &ahead) || !ahead.Signed.Equal(signed) || !ahead.Limit.Before(signed) {
		t.Errorf("%s: %v", signed, err)
	}
	if _, err := c.Would(signed); !errors.As(err, &ahead) {
		t.Errorf("would %s: %v", signed, err)
	}
	if after := c.Now(); after != before {
		t.Errorf("%+v, before %+v", after, before)
	}
}

// The clock is believed between the floor and a year above it.
func TestBelievedRange(t *testing.T) {
	for _, c := range []struct {
		name  string
		rtc   time.Time
		state clock.State
		time  time.Time
	}{
		{"right", begin, clock.OK, begin},
		{"at the floor", built, clock.OK, built},
		{"a little behind", built.Add(-clock.Slack), clock.OK, built},
		{"behind", built.Add(-clock.Slack - 1), clock.Behind, built},
		{"1970", time.Unix(0, 0), clock.Behind, built},
		{"year 1", time.Time{}, clock.Behind, built},
		{"a year above", built.Add(clock.MaxAhead), clock.OK, built.Add(clock.MaxAhead)},
		{"more than a year above", built.Add(clock.MaxAhead + 1), clock.Ahead, built},
		{"2099", date(2099, 1, 1), clock.Ahead, built},
		{"year 292277026596", time.Unix(1<<62, 0), clock.Ahead, built},
		{"another zone", begin.In(time.FixedZone("", 3600)), clock.OK, begin},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t)
			b.set(c.rtc)
			want(t, b.start(t), c.state, c.time)
		})
	}
}

func TestSignedTimeIsDurable(t *testing.T) {
	b := newBox(t)
	c := b.start(t)
	raise(t, c, begin.Add(-time.Hour))
	raise(t, c, begin.Add(-day)) // changes nothing
	b.set(time.Unix(0, 0))
	want(t, c, clock.Behind, begin.Add(-time.Hour))
	want(t, b.start(t), clock.Behind, begin.Add(-time.Hour))
	data, err := b.docs.Read(t.Context(), clock.Document)
	if err != nil || string(data.Data) != `{"format":1,"signed":"2027-01-31T23:00:00Z"}` {
		t.Errorf("%s, %v", data.Data, err)
	}
}

// A battery that is empty: the relay runs on its floor, and time goes on.
func TestEmptyBattery(t *testing.T) {
	b := newBox(t)
	b.set(time.Unix(0, 0))
	c := b.start(t)
	want(t, c, clock.Behind, built)
	b.pass(3 * day)
	want(t, c, clock.Behind, built.Add(3*day))
	raise(t, c, begin)
	b.pass(day)
	want(t, c, clock.Behind, begin.Add(day))
	c.Record(c.Now().Time) // in the journal
	b.journal.Records = []time.Time{c.Now().Time}
	b.set(time.Unix(0, 0))
	want(t, b.start(t), clock.Behind, begin.Add(day))
	b.journal.Records = nil
	want(t, b.start(t), clock.Behind, begin)
}

// Set back below the floor while it runs, the time goes on; set back above the floor, it is a correction.
func TestJumpBackWhileRunning(t *testing.T) {
	b := newBox(t)
	c := b.start(t)
	raise(t, c, begin)
	b.pass(10 * day)
	want(t, c, clock.OK, begin.Add(10*day))
	b.set(begin.Add(-day))
	want(t, c, clock.Behind, begin.Add(10*day))
	b.pass(day)
	want(t, c, clock.Behind, begin.Add(11*day))
	b.set(begin.Add(11*day + time.Hour))
	want(t, c, clock.OK, begin.Add(11*day+time.Hour))
	b.set(begin.Add(11*day - time.Minute)) // as clocks are corrected
	want(t, c, clock.OK, begin.Add(11*day))
}

// A clock that stands still must not keep a release fresh for ever.
func TestStuck(t *testing.T) {
	b := newBox(t)
	b.stuck = true
	c := b.start(t)
	raise(t, c, begin)
	b.pass(time.Minute)
	want(t, c, clock.OK, begin.Add(time.Minute))
	b.pass(100 * day)
	want(t, c, clock.Behind, begin.Add(100*day+time.Minute))
	// At each start it says the same. What the journal says makes the time go on.
	for n := range 5 {
		b.journal.Records = append(b.journal.Records, c.Now().Time)
		c = b.start(t)
		b.pass(20 * day)
		want(t, c, clock.Behind, begin.Add(time.Duration(120+20*n)*day+time.Minute))
	}
}

// To 2099 and back: nothing remains of it, neither from what was written meanwhile.
func TestLeapForward(t *testing.T) {
	b := newBox(t)
	c := b.start(t)
	raise(t, c, begin)
	b.pass(day)
	b.set(date(2099, 1, 1))
	want(t, c, clock.Ahead, begin.Add(day))
	raise(t, c, begin.Add(time.Hour)) // a release that is signed as it should be
	c.Record(b.now())
	b.journal.Records = []time.Time{begin, b.now(), begin.Add(day)}
	want(t, c, clock.Ahead, begin.Add(day))
	want(t, b.start(t), clock.Ahead, begin.Add(day))
	b.set(begin.Add(2 * day))
	want(t, c, clock.OK, begin.Add(2*day))
	want(t, b.start(t), clock.OK, begin.Add(2*day))
}

// A box that slept: signed time that is near its clock makes that believable again, a year less does not.
func TestSignedTimeSupportsTheClock(t *testing.T) {
	b := newBox(t)
	now := begin.Add(1200 * day)
	b.set(now)
	c := b.start(t)
	want(t, c, clock.Ahead, built)
	old := now.Add(-clock.MaxAhead - time.Second)
	if r, err := c.Would(old); err != nil || r.State != clock.Ahead || !r.Time.Equal(old) {
		t.Errorf("%+v, %v", r, err)
	}
	want(t, c, clock.Ahead, built) // Would did nothing
	recent := now.Add(-30 * day)
	if r, err := c.Would(recent); err != nil || r.State != clock.OK || !r.Time.Equal(now) || !r.Floor.Equal(recent) {
		t.Errorf("%+v, %v", r, err)
	}
	raise(t, c, recent)
	want(t, c, clock.OK, now)
}

// A stolen key: one signed time goes MaxJump, a second one no further, at no state of the box's clock.
func TestStolenKeyCannotClimb(t *testing.T) {
	for name, rtc := range map[string]time.Time{"right": begin, "1970": time.Unix(0, 0), "2099": date(2099, 1, 1)} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			b.set(rtc)
			c := b.start(t)
			limit := built.Add(clock.MaxJump)
			switch name {
			case "right":
				limit = begin.Add(clock.MaxJump)
			case "2099": // both are in one hand: then the horizon holds
				limit = built.Add(clock.Horizon)
			}
			refused(t, c, limit.Add(time.Second))
			refused(t, c, date(2099, 1, 1))
			refused(t, c, date(9999, 12, 31))
			raise(t, c, limit)
			for range 3 {
				refused(t, c, limit.Add(time.Second))
				c = b.start(t)
			}
			if got := c.Now().Floor; !got.Equal(limit) {
				t.Errorf("floor %s, want %s", got, limit)
			}
		})
	}
}

// A clock that is not believed supports what is signed up to it, and a day for the clocks of others, but is no step.
func TestUnbelievedClockIsNoStep(t *testing.T) {
	b := newBox(t)
	b.set(built.Add(clock.MaxJump + 3*clock.MaxAhead))
	c := b.start(t)
	refused(t, c, b.now().Add(day+time.Second))
	raise(t, c, b.now().Add(day))
}

// A clock that is set forward by less than a year at each start must not lift itself.
func TestClockCannotClimb(t *testing.T) {
	b := newBox(t)
	for range 6 {
		c := b.start(t)
		b.set(c.Now().Floor.Add(clock.MaxAhead))
		now := c.Now().Time
		c.Record(now)
		b.journal.Records = append(b.journal.Records, now)
	}
	if floor := b.start(t).Now().Floor; floor.After(built.Add(clock.MaxAhead)) {
		t.Errorf("floor %s", floor)
	}
}

func TestOwnerConfirms(t *testing.T) {
	b := newBox(t)
	late := begin.Add(1000 * day)
	b.set(late)
	c := b.start(t)
	want(t, c, clock.Ahead, built)
	var no *clock.ConfirmError
	for name, by := range map[string]clock.Confirmation{
		"nothing":   {},
		"no end":    {NotBefore: late.Add(-day)},
		"no begin":  {NotAfter: late.Add(day)},
		"too early": {NotBefore: late.Add(time.Second), NotAfter: late.Add(day)},
		"too late":  {NotBefore: late.Add(-day), NotAfter: late.Add(-1)},
	} {
		if err := c.Confirm(t.Context(), by); !errors.As(err, &no) {
			t.Errorf("%s: %v", name, err)
		}
	}
	want(t, c, clock.Ahead, built)
	if err := c.Confirm(t.Context(), clock.Confirmation{NotBefore: late.Add(-day), NotAfter: late.Add(day)}); err != nil {
		t.Fatal(err)
	}
	want(t, c, clock.OK, late)
	want(t, b.start(t), clock.OK, late)
	raise(t, c, late.Add(clock.MaxJump))
}

// What a stolen key or a lying clock raised, the owner undoes; the journal, which cannot be taken back, does not redo it.
func TestOwnerLowers(t *testing.T) {
	b := newBox(t)
	c := b.start(t)
	raise(t, c, begin)
	lie := begin.Add(300 * day)
	b.journal.Records = []time.Time{begin, lie}
	c.Record(lie)
	stolen := begin.Add(1500 * day)
	raise(t, c, stolen)
	want(t, c, clock.Behind, stolen)
	bracket := clock.Confirmation{NotBefore: begin.Add(-day), NotAfter: begin.Add(day)}
	if err := c.Confirm(t.Context(), bracket); err != nil {
		t.Fatal(err)
	}
	want(t, c, clock.OK, begin)
	c.Record(lie)
	want(t, c, clock.OK, begin)
	b.journal.Signed = stolen
	c = b.start(t)
	want(t, c, clock.OK, begin)
	raise(t, c, begin.Add(day)) // signed time counts as ever
	want(t, c, clock.Behind, begin.Add(day))

	// Not below the build.
	b.set(built.Add(-day))
	var no *clock.ConfirmError
	if err := c.Confirm(t.Context(), clock.Confirmation{NotBefore: built.Add(-2 * day), NotAfter: built}); !errors.As(err, &no) {
		t.Error(err)
	}
	want(t, c, clock.Behind, begin.Add(day))
	// Once more, with the time having gone on beyond all that was undone: the journal counts again.
	b.set(stolen.Add(day))
	if err := c.Confirm(t.Context(), clock.Confirmation{NotBefore: stolen, NotAfter: stolen.Add(2 * day)}); err != nil {
		t.Fatal(err)
	}
	c.Record(stolen.Add(2 * day))
	want(t, c, clock.Behind, stolen.Add(2*day))
}

// Without the file, the build time and the journal are left.
func TestFileIsLost(t *testing.T) {
	for name, data := range map[string]string{"lost": "", "empty": " ", "cut": `{"format":1,"sig`, "of another time": `{"format":2}`,
		"not canonical": `{"format": 1}`, "with a time that is none": `{"format":1,"signed":"2027-02-30T00:00:00Z"}`} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			raise(t, b.start(t), begin.Add(-day))
			if name == "lost" {
				if err := b.docs.Remove(t.Context(), clock.Document); err != nil {
					t.Fatal(err)
				}
			} else if _, err := b.docs.Write(t.Context(), clock.Document, []byte(data), state.Any); err != nil {
				t.Fatal(err)
			}
			b.set(time.Unix(0, 0))
			c := b.start(t)
			want(t, c, clock.Behind, built)
			if err := c.Damaged(); (err != nil) != (name != "lost") {
				t.Error(err)
			}
			b.journal = clock.Journal{Records: []time.Time{begin.Add(-2 * day), date(2099, 1, 1)}}
			want(t, b.start(t), clock.Behind, begin.Add(-2*day))
			b.journal.Signed = date(2030, 1, 1)
			c = b.start(t)
			want(t, c, clock.Behind, b.journal.Signed)
			// The next signed time writes all of it.
			raise(t, c, begin)
			b.journal = clock.Journal{}
			c = b.start(t)
			want(t, c, clock.Behind, date(2030, 1, 1))
			if err := c.Damaged(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestJournalFromNowhere(t *testing.T) {
	b := newBox(t)
	b.journal = clock.Journal{Records: []time.Time{built.Add(clock.MaxAhead + 1), {}, time.Unix(0, 0)}, Signed: built.Add(clock.Horizon + 1)}
	b.set(time.Unix(0, 0))
	want(t, b.start(t), clock.Behind, built)
}

// meddling is a place of documents in which others write at the worst moment.
type meddling struct {
	state.Documents
	before func() // a write
	fail   error
}

func (m *meddling) Write(ctx context.Context, name string, data []byte, replaces state.Version) (state.Version, error) {
	if before := m.before; before != nil {
		m.before = nil
		before()
	}
	if m.fail != nil {
		return state.None, m.fail
	}
	return m.Documents.Write(ctx, name, data, replaces)
}

func TestTwoRelays(t *testing.T) {
	a := newBox(t)
	b := &box{docs: a.docs, rtc: time.Unix(0, 0)}
	one, two := a.start(t), b.start(t)
	raise(t, one, begin)
	want(t, two, clock.Behind, built)
	if err := two.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(t, two, clock.Behind, begin)
	b.pass(day)
	if err := two.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(t, two, clock.Behind, begin.Add(day)) // what passed is not forgotten
	raise(t, two, begin.Add(-day))             // no step back for anybody
	raise(t, one, begin)
	want(t, a.start(t), clock.OK, begin)

	// The owner confirms at one; the other learns it, though its floor goes down.
	raise(t, two, begin.Add(400*day))
	if err := one.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(t, one, clock.Behind, begin.Add(400*day))
	if err := one.Confirm(t.Context(), clock.Confirmation{NotBefore: begin, NotAfter: begin.Add(day)}); err != nil {
		t.Fatal(err)
	}
	want(t, one, clock.OK, begin)
	raise(t, two, begin.Add(time.Hour))
	want(t, two, clock.Behind, begin.Add(time.Hour))
}

func TestTwoRelaysAtOnce(t *testing.T) {
	b := newBox(t)
	docs := &meddling{Documents: b.docs}
	other := b.start(t)
	b.docs = docs
	c := b.start(t)
	docs.before = func() { raise(t, other, begin.Add(2*time.Hour)) }
	raise(t, c, begin.Add(time.Hour))
	want(t, c, clock.Behind, begin.Add(2*time.Hour))
	b.docs = docs.Documents
	b.set(time.Unix(0, 0))
	want(t, b.start(t), clock.Behind, begin.Add(2*time.Hour))

	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			mine := &box{docs: docs.Documents, rtc: begin}
			c, err := clock.Open(t.Context(), mine.docs, clock.Sources{RTC: mine.now, Built: built})
			if err != nil {
				t.Error(err)
				return
			}
			l, err := mine.docs.Lock(t.Context(), nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer l.Unlock() //nolint:errcheck // scratch
			raise(t, c, begin.Add(time.Duration(10+n)*time.Hour))
		})
	}
	wg.Wait()
	want(t, b.start(t), clock.Behind, begin.Add(13*time.Hour))
}

// What could not be made durable does not count, and others who always win are an error in the end.
func TestDisk(t *testing.T) {
	b := newBox(t)
	docs := &meddling{Documents: b.docs, fail: errors.New("no room")}
	b.docs = docs
	c := b.start(t)
	if err := c.Raise(t.Context(), begin.Add(time.Hour)); !errors.Is(err, docs.fail) {
		t.Error(err)
	}
	want(t, c, clock.OK, begin)
	docs.fail = &state.ChangedError{Name: clock.Document}
	var changed *state.ChangedError
	if err := c.Raise(t.Context(), begin.Add(time.Hour)); !errors.As(err, &changed) {
		t.Error(err)
	}
	docs.fail = nil
	raise(t, c, begin.Add(time.Hour))

	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, clock.Document), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := clock.Open(t.Context(), state.Dir(dir), clock.Sources{RTC: b.now, Built: built}); err == nil {
		t.Error("what cannot be read is not what is not there")
	}
	for _, s := range []clock.Sources{{RTC: b.now}, {Built: built}} {
		if _, err := clock.Open(t.Context(), b.docs, s); err == nil {
			t.Errorf("%+v was accepted", s)
		}
	}
}

// Without Elapsed a floor stands still, and nothing else changes.
func TestNoElapsed(t *testing.T) {
	b := newBox(t)
	c, err := clock.Open(t.Context(), b.docs, clock.Sources{RTC: b.now, Built: built})
	if err != nil {
		t.Fatal(err)
	}
	raise(t, c, begin)
	b.pass(day)
	want(t, c, clock.OK, begin.Add(day))
	b.set(time.Unix(0, 0))
	want(t, c, clock.Behind, begin)
}
