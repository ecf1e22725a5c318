// Package clock knows what time it can be at a site whose clock may lie.
//
// A box says 1970 when its battery is empty, 2099 when somebody wants a release to expire, and last March when somebody
// wants an old one to be fresh again. So the relay has a floor, a time that has certainly come: the newest of when its
// program was built, what somebody whom it trusts signed, what its owner confirmed, and what its journal says. The box's
// clock is believed between the floor and a year above it.
//
// # What raises the floor, and how far
//
//   - A signed time, when what carries it is accepted. It may be at most MaxJump above the newest of build time, confirmed
//     time and the box's clock; above a clock that is itself not believed, a day. Signed times are no step for one
//     another: who has stolen a key cannot climb with it. Who has both the key and the box's clock can, up to Horizon
//     after the build, where no signed time is believed.
//   - The owner, who confirms what the box's clock says now, between two times that were signed. That is also the only
//     way down: it undoes what a stolen key or a clock that lied has raised, though never below the build time.
//   - The journal's records, as long as they are at most MaxAhead above everything of the above. Else a clock that runs
//     ahead a little less than a year at each start would lift itself.
//   - The passing of time while the process runs, by a clock that nobody sets. Without it a clock that stands still would
//     keep every release fresh.
//
// Nothing here asks the system for the time: the caller gives it.
package clock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/plimsoll/plimsoll/relay/state"
)

const (
	// MaxAhead is how far above the floor the box's clock is believed: 365 days.
	MaxAhead = 365 * 24 * time.Hour

	// MaxJump is how far one signed time may be above all that is known otherwise: five years, for a box that was in a
	// storeroom with an empty battery. It is also all that a stolen key can do to the floor.
	MaxJump = 5 * MaxAhead

	// Horizon is how long after the program was built signed times are believed at all: twenty years.
	Horizon = 20 * MaxAhead

	// Slack is how far below the floor the box's clock may be without a word: clocks are corrected by seconds, and those
	// who sign have clocks too. The time is the floor even so.
	Slack = 5 * time.Minute

	skew     = 24 * time.Hour // by which the clock of somebody who signs may be ahead of a box's that is not believed yet
	maxTries = 16             // to write what others write too
)

// State is what is to be thought of the box's clock.
type State string

// The states of a clock.
const (
	OK     State = "ok"     // it is believed
	Behind State = "behind" // it is before a time that has certainly come
	Ahead  State = "ahead"  // it is so far above the floor that only a signed time or the owner makes it believable
)

// Reading is the time at one moment.
type Reading struct {
	Time  time.Time // to be used; never below Floor
	RTC   time.Time // what the box's clock says
	Floor time.Time // has certainly come
	State State     // of the box's clock
}

// Sources say where the time comes from.
type Sources struct {
	RTC     func() time.Time     // the box's clock; needed
	Elapsed func() time.Duration // since some moment, by a clock that nobody sets; nil: a floor stands still while the process runs
	Built   time.Time            // when the program was built; needed, for without it the floor could be anything
	Journal Journal              // what the relay wrote down before
}

// Journal is what the relay's journal says of the time.
type Journal struct {
	Records []time.Time // of records or checkpoints, in any order; those that are not plausible count for nothing
	Signed  time.Time   // the newest signed time of which a record after the last confirmation says that it was accepted; zero if none
}

// AheadError says that a signed time is too far in the future to be believed.
type AheadError struct {
	Signed time.Time
	Limit  time.Time // the newest that is believed now
}

func (e *AheadError) Error() string {
	return fmt.Sprintf("signed time %s: later than %s, which is as far as one signed time is believed", text(e.Signed), text(e.Limit))
}

// ConfirmError says why the box's clock cannot be confirmed.
type ConfirmError struct {
	RTC                 time.Time
	NotBefore, NotAfter time.Time // what can be confirmed
}

func (e *ConfirmError) Error() string {
	if e.NotAfter.IsZero() {
		return fmt.Sprintf("confirm the clock: it says %s, which is before this program was built, %s", text(e.RTC), text(e.NotBefore))
	}
	return fmt.Sprintf("confirm the clock: it says %s, and what confirms it is for %s to %s", text(e.RTC), text(e.NotBefore), text(e.NotAfter))
}

// Confirmation is what the owner signed of the box's clock: that it is now between two times. Who verifies it sees to it
// that it is used once.
type Confirmation struct {
	NotBefore time.Time // when it was signed
	NotAfter  time.Time // when it ends
}

// Clock gives the time. It is safe for concurrent use, and so are several that share documents.
type Clock struct {
	sources Sources
	docs    state.Documents

	writing sync.Mutex // held while the document is changed

	mu       sync.Mutex
	doc      document      // as it was last read or written
	recorded time.Time     // the newest plausible time of the journal
	base     time.Time     // the floor
	at       time.Duration // by Elapsed, when it was that
	damaged  error
}

// Open reads what relays that share the documents have accepted so far. A document that is missing or damaged is no
// error: what is left then is the build time and the journal; Damaged says it.
func Open(ctx context.Context, docs state.Documents, s Sources) (*Clock, error) {
	if s.RTC == nil || s.Built.IsZero() {
		return nil, errors.New("clock: no clock of the box or no build time")
	}
	if s.Elapsed == nil {
		s.Elapsed = func() time.Duration { return 0 }
	}
	c := &Clock{sources: s, docs: docs}
	c.at = s.Elapsed()
	doc, _, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	c.doc = doc
	if signed := s.Journal.Signed; doc.Confirmations == 0 && signed.After(doc.signed()) && !signed.After(s.Built.Add(Horizon)) {
		c.doc.Signed = text(signed) // after a confirmation the document alone says what counts
	}
	c.recorded = c.newest(s.Journal.Records)
	c.base = c.atStart()
	return c, nil
}

// Now gives the time.
func (c *Clock) Now() Reading {
	c.mu.Lock()
	defer c.mu.Unlock()
	return read(c.sources.RTC(), c.floor())
}

// Would gives the time as it would be if a signed time were accepted: a release is judged by its own time too. It fails
// with *AheadError.
func (c *Clock) Would(signed time.Time) (Reading, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rtc, floor := c.sources.RTC(), c.floor()
	if err := c.plausible(signed, rtc, floor); err != nil {
		return Reading{}, err
	}
	return read(rtc, later(floor, signed)), nil
}

// Damaged says why the document could not be used, if that is so. The next signed time replaces it.
func (c *Clock) Damaged() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.damaged
}

// Raise makes a signed time durable in the floor: it was in something that was accepted. One below the floor changes
// nothing. It fails with *AheadError, or with the error of the documents; then the floor is where it was.
func (c *Clock) Raise(ctx context.Context, signed time.Time) error {
	return c.change(ctx, func(d document) (document, error) {
		rtc, floor := c.sources.RTC(), c.floor()
		if err := c.plausible(signed, rtc, floor); err != nil {
			return d, err
		}
		// Only the document outlives this process; what the floor has become by the passing of time does not.
		if signed = signed.UTC().Truncate(time.Second); signed.After(d.signed()) {
			d.Signed = text(signed)
		}
		return d, nil
	})
}

// Confirm makes the floor what the box's clock says now, because its owner signed that it is between two times. It fails
// with *ConfirmError when it is not, and when it is below the build time.
func (c *Clock) Confirm(ctx context.Context, by Confirmation) error {
	return c.change(ctx, func(d document) (document, error) {
		rtc := c.sources.RTC().UTC().Truncate(time.Second)
		if by.NotBefore.IsZero() || by.NotAfter.IsZero() || rtc.Before(by.NotBefore.Truncate(time.Second)) || rtc.After(by.NotAfter) {
			return d, &ConfirmError{RTC: rtc, NotBefore: by.NotBefore, NotAfter: by.NotAfter}
		}
		if rtc.Before(c.sources.Built.Truncate(time.Second)) {
			return d, &ConfirmError{RTC: rtc, NotBefore: c.sources.Built}
		}
		floor := later(c.floor(), d.discarded())
		d = document{Format: format, Confirmations: d.Confirmations + 1, Confirmed: text(rtc), Signed: d.Signed}
		if d.signed().After(rtc) {
			d.Signed = ""
		}
		if floor.After(rtc) {
			// The journal cannot be taken back. What it says up to here counts for nothing until that time has come.
			d.Discarded = text(floor.Add(time.Second - 1))
		}
		return d, nil
	})
}

// Record tells of a time that was written to the journal: it counts as it will at the next start.
func (c *Clock) Record(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t = c.newest([]time.Time{t}); t.After(c.recorded) {
		c.recorded = t
		c.lift(t)
	}
}

// Refresh reads what other relays have accepted that share the documents.
func (c *Clock) Refresh(ctx context.Context) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	doc, _, err := c.read(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.adopt(merge(c.doc, doc))
	return nil
}

// change replaces the document by what fn makes of it, as often as others do so at the same time.
func (c *Clock) change(ctx context.Context, fn func(document) (document, error)) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	var err error
	for range maxTries {
		var changed *state.ChangedError
		if err = c.changeOnce(ctx, fn); !errors.As(err, &changed) {
			return err
		}
	}
	return err
}

func (c *Clock) changeOnce(ctx context.Context, fn func(document) (document, error)) error {
	there, version, err := c.read(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.adopt(merge(c.doc, there))
	next, err := fn(c.doc)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	if next != there {
		data, err := next.encode()
		if err == nil {
			_, err = c.docs.Write(ctx, Document, data, version)
		}
		if err != nil {
			return fmt.Errorf("clock: %w", err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.damaged = nil
	c.adopt(next)
	return nil
}

// read gives the document that is there; an empty one when there is none that can be used.
func (c *Clock) read(ctx context.Context) (document, state.Version, error) {
	d, err := c.docs.Read(ctx, Document)
	if errors.Is(err, fs.ErrNotExist) {
		return document{Format: format}, state.None, nil
	}
	if err != nil {
		return document{}, state.None, fmt.Errorf("clock: %w", err)
	}
	doc, err := parse(d.Data)
	if err != nil {
		c.mu.Lock()
		c.damaged = fmt.Errorf("%s: %w", Document, err)
		c.mu.Unlock()
		return document{Format: format}, d.Version, nil
	}
	return doc, d.Version, nil
}

// adopt takes over a document. c.mu is held.
func (c *Clock) adopt(d document) {
	confirmed := d.Confirmations != c.doc.Confirmations
	c.doc = d
	if !confirmed {
		c.lift(d.signed())
		return
	}
	c.recorded = time.Time{} // the confirmation came later and says more
	c.base, c.at = c.atStart(), max(c.sources.Elapsed(), c.at)
}

// atStart is the floor without the passing of time. c.mu is held, or c is not shared yet.
func (c *Clock) atStart() time.Time {
	return later(later(c.sources.Built.UTC(), c.doc.signed()), later(c.doc.confirmed(), c.recorded))
}

// newest gives the newest time of the journal that is plausible, or zero. c.mu is held, or c is not shared yet.
func (c *Clock) newest(times []time.Time) time.Time {
	anchor := later(later(c.sources.Built, c.doc.signed()), c.doc.confirmed())
	var newest time.Time
	for _, t := range times {
		if t.After(newest) && !t.After(anchor.Add(MaxAhead)) && (c.doc.Discarded == "" || t.After(c.doc.discarded())) {
			newest = t.UTC()
		}
	}
	return newest
}

// floor is the base with the time that has passed since. c.mu is held.
func (c *Clock) floor() time.Time { return c.base.Add(max(0, c.sources.Elapsed()-c.at)) }

// lift raises the floor. c.mu is held.
func (c *Clock) lift(t time.Time) {
	if floor := c.floor(); t.After(floor) {
		c.base, c.at = t.UTC(), max(c.sources.Elapsed(), c.at)
	}
}

// plausible bounds what one signed time can do. c.mu is held.
func (c *Clock) plausible(signed, rtc, floor time.Time) error {
	limit := later(c.sources.Built, c.doc.confirmed()).Add(MaxJump)
	if read(rtc, floor).State == Ahead {
		limit = later(limit, rtc.Add(skew))
	} else {
		limit = later(limit, rtc.Add(MaxJump))
	}
	if horizon := c.sources.Built.Add(Horizon); limit.After(horizon) {
		limit = horizon
	}
	if signed.After(limit) && signed.After(floor) {
		return &AheadError{Signed: signed, Limit: limit}
	}
	return nil
}

func read(rtc, floor time.Time) Reading {
	rtc = rtc.UTC().Round(0)
	r := Reading{Time: rtc, RTC: rtc, Floor: floor.UTC(), State: OK}
	switch {
	case rtc.After(floor.Add(MaxAhead)):
		r.Time, r.State = r.Floor, Ahead
	case rtc.Before(floor):
		r.Time = r.Floor
		if rtc.Before(floor.Add(-Slack)) {
			r.State = Behind
		}
	}
	return r
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
