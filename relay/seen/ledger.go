package seen

import (
	"math"
	"net"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
)

// The bounds of what is kept in memory and of what a stranger can make us keep.
const (
	maxPending  = 4_096 // changed rows that wait for the file; more is dropped
	maxRobots   = 4_096 // robots in memory; one that was forgotten costs a look into the file
	maxImages   = 4_096 // names in memory
	maxText     = 512   // bytes of a repository, reference or name
	maxAgent    = 160   // bytes of a User-Agent
	recentPulls = 8     // of one robot, that blobs may belong to
	recentLooks = 4     // of one robot: tags that it resolved
	dailyRows   = 1_000 // of history for one robot: a client in a loop must not push out everybody else's
	forgetAfter = time.Hour
	sameWithin  = time.Minute // a pull repeated within it is counted in the same row
	millisOfDay = int64(24 * time.Hour / time.Millisecond)
	lastMilli   = 253_402_300_799_999 // the end of the year 9999
)

// robotKey tells robots apart: by name, or anonymous ones by address.
type robotKey struct{ name, host string }

// id is the number of a row, known to the writer only. It holds for one epoch of the writer.
type id struct {
	row   int64
	epoch uint64
}

type robot struct {
	key     robotKey
	id      id
	address string
	agent   string
	asked   string // the agent before it was cleaned
	arrived time.Time
	pulls   [recentPulls]*pull // a ring; the next one goes to at
	at      int
	looks   [recentLooks]look
	looksAt int
	day     int64 // on which rows were counted
	rows    int

	dirty bool
	delta robotDelta
	days  []dayDelta // one, unless a batch spans midnight or the clock was set
}

// look is a tag that a robot resolved with HEAD: containerd gets the manifest by digest after that.
type look struct {
	repository, reference string
	digest                digest.Digest
}

// image is what a pull is of; many rows share one.
type image struct {
	id id
	imageKey
}

type imageKey struct {
	kind, repository, reference string
	digest                      digest.Digest
}

type pull struct {
	id         id
	robot      *robot
	image      *image
	generation int64
	status     int
	start      time.Time
	stored     bool // handed to the writer before

	dirty bool
	delta pullDelta
}

// The deltas are what is added to rows.
type (
	robotDelta struct {
		robot                  *robot
		address, agent         string
		first, last            int64 // Unix time in ms
		generation             int64
		requests, pulls, bytes int64
	}
	dayDelta struct {
		robot                         *robot
		day                           int64 // since 1970
		requests, pulls, bytes, other int64
	}
	pullDelta struct {
		pull                *pull
		first               bool // the row does not exist yet
		times, blobs, bytes int64
		end                 int64 // Unix time in ms
	}
)

// batch is one transaction.
type batch struct {
	robots []robotDelta
	days   []dayDelta
	pulls  []pullDelta
	events uint64
}

// ledger adds events up until the writer takes them.
type ledger struct {
	robots      map[robotKey]*robot
	images      map[imageKey]*image
	dirtyRobots []*robot
	dirtyPulls  []*pull
	events      uint64
}

func newLedger() *ledger {
	return &ledger{robots: make(map[robotKey]*robot), images: make(map[imageKey]*image)}
}

// add counts an event; false means that too much waits for the file.
func (l *ledger) add(e *Event) bool {
	if len(l.dirtyPulls) >= maxPending || len(l.dirtyRobots) >= maxPending {
		return false
	}
	for _, text := range []*string{&e.Robot, &e.Address, &e.Repository, &e.Reference, (*string)(&e.Digest)} {
		*text = (*text)[:min(len(*text), maxText)]
	}
	if at := e.Time.UnixMilli(); at < 0 || at > lastMilli {
		e.Time = time.UnixMilli(min(max(at, 0), lastMilli)) // a clock gone mad, whose years JSON could not say
	}
	r := l.robot(e)
	bytes := max(e.Bytes, 0)
	generation := int64(min(e.Generation, math.MaxInt64))
	at := e.Time.UnixMilli()
	end := at + max(e.Duration, 0).Milliseconds()
	d := &r.delta
	if !r.dirty {
		r.dirty = true
		*d = robotDelta{robot: r, first: at}
		l.dirtyRobots = append(l.dirtyRobots, r)
	}
	d.address, d.agent, d.last, d.generation = r.address, r.agent, end, generation
	d.requests++
	d.bytes += bytes
	day := r.today(at)
	day.requests++
	day.bytes += bytes
	l.events++

	ok := e.Status >= 200 && e.Status < 300
	switch {
	case ok && e.Kind == KindManifest && bytes == 0:
		r.look(e)
	case ok && bytes > 0 && (e.Kind == KindManifest || e.Kind == KindGit):
		d.pulls++
		day.pulls++
		if p := l.pull(r, e, generation); p != nil {
			p.delta.times++
			l.grow(p, end, bytes)
		} else {
			day.other += bytes
		}
	case ok && bytes > 0 && e.Kind == KindBlob:
		if p := r.recent(func(p *pull) bool { return p.image.kind == KindManifest && p.image.repository == e.Repository }); p != nil {
			p.delta.blobs++
			l.grow(p, end, bytes)
		} else {
			day.other += bytes
		}
	default:
		day.other += bytes
	}
	return true
}

func (l *ledger) grow(p *pull, end, bytes int64) {
	if !p.dirty {
		p.dirty = true
		l.dirtyPulls = append(l.dirtyPulls, p)
	}
	p.delta.bytes += bytes
	p.delta.end = end
}

// robot finds who asked.
func (l *ledger) robot(e *Event) *robot {
	host := e.Address
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	key := robotKey{name: e.Robot}
	if key.name == "" {
		key.host = host
	}
	r := l.robots[key]
	if r == nil {
		if len(l.robots) >= maxRobots {
			l.forget(func(*robot) bool { return true })
		}
		// Cloned, because what an event refers to is part of a request's buffers.
		key = robotKey{name: strings.Clone(key.name), host: strings.Clone(key.host)}
		r = &robot{key: key}
		l.robots[key] = r
	}
	if r.address != host {
		r.address = clean(host, maxText)
	}
	if r.asked != e.Agent {
		r.asked = strings.Clone(e.Agent[:min(len(e.Agent), 4*maxAgent)])
		r.agent = clean(e.Agent, maxAgent)
	}
	r.arrived = e.Time
	return r
}

// forget drops robots that have nothing unsaved. Blobs of their running pulls count as other bytes then.
func (l *ledger) forget(which func(*robot) bool) {
	for key, r := range l.robots {
		if !r.dirty && which(r) {
			delete(l.robots, key)
		}
	}
}

// sweep gives back the memory that robots need which went away.
func (l *ledger) sweep(now time.Time) {
	// The clock may have been set: what lies in the future is not idle, and is swept when the map is full.
	l.forget(func(r *robot) bool { return now.Sub(r.arrived) > forgetAfter })
	if len(l.robots) == 0 {
		clear(l.images)
	}
}

// today is the sum of an event's day.
func (r *robot) today(ms int64) *dayDelta {
	day := floorDiv(ms, millisOfDay)
	for i := range r.days {
		if r.days[i].day == day {
			return &r.days[i]
		}
	}
	if len(r.days) == 16 {
		return &r.days[15] // the clock does not stop jumping: the sums stay right, their days do not
	}
	r.days = append(r.days, dayDelta{robot: r, day: day})
	return &r.days[len(r.days)-1]
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func (r *robot) look(e *Event) {
	if e.Digest == "" || e.Reference == "" || e.Reference == string(e.Digest) {
		return
	}
	for i := range r.looks {
		if k := &r.looks[i]; k.repository == e.Repository && k.reference == e.Reference && k.digest == e.Digest {
			return
		}
	}
	r.looks[r.looksAt] = look{strings.Clone(e.Repository), strings.Clone(e.Reference), digest.Digest(strings.Clone(string(e.Digest)))}
	r.looksAt = (r.looksAt + 1) % recentLooks
}

// tag is the tag that led a robot to a digest, if it is known.
func (r *robot) tag(e *Event) string {
	if e.Reference != string(e.Digest) {
		return e.Reference
	}
	for i := range r.looks {
		k := &r.looks[(r.looksAt+recentLooks-1-i)%recentLooks] // the latest first
		if k.repository == e.Repository && k.digest == e.Digest {
			return k.reference
		}
	}
	return ""
}

// recent finds the latest of a robot's pulls.
func (r *robot) recent(is func(*pull) bool) *pull {
	for i := range r.pulls {
		if p := r.pulls[(r.at+recentPulls-1-i)%recentPulls]; p != nil && is(p) {
			return p
		}
	}
	return nil
}

// pull finds the row that an event counts in, or begins one; nil if the robot made too many today.
func (l *ledger) pull(r *robot, e *Event, generation int64) *pull {
	img := l.image(imageKey{kind: e.Kind, repository: e.Repository, reference: r.tag(e), digest: e.Digest})
	if p := r.recent(func(p *pull) bool {
		return p.image == img && p.generation == generation && p.status == e.Status && e.Time.Sub(p.start).Abs() < sameWithin
	}); p != nil {
		return p
	}
	if day := floorDiv(e.Time.UnixMilli(), millisOfDay); r.day != day {
		r.day, r.rows = day, 0
	}
	if r.rows++; r.rows > dailyRows {
		return nil
	}
	p := &pull{robot: r, image: img, generation: generation, status: e.Status, start: e.Time}
	r.pulls[r.at] = p
	r.at = (r.at + 1) % recentPulls
	return p
}

func (l *ledger) image(key imageKey) *image {
	if img := l.images[key]; img != nil {
		return img
	}
	if len(l.images) >= maxImages {
		clear(l.images) // rows that are in use keep theirs
	}
	key = imageKey{
		kind: strings.Clone(key.kind), repository: strings.Clone(key.repository),
		reference: strings.Clone(key.reference), digest: digest.Digest(strings.Clone(string(key.digest))),
	}
	img := &image{imageKey: key}
	l.images[key] = img
	return img
}

// pending says whether something waits for the file, and how many rows of history.
func (l *ledger) pending() (waits bool, rows int) { return len(l.dirtyRobots) > 0, len(l.dirtyPulls) }

// take gives what was added up since the last time.
func (l *ledger) take() *batch {
	b := &batch{events: l.events}
	for _, r := range l.dirtyRobots {
		b.robots = append(b.robots, r.delta)
		b.days = append(b.days, r.days...)
		r.dirty, r.days = false, r.days[:0]
	}
	for _, p := range l.dirtyPulls {
		d := p.delta
		d.pull, d.first = p, !p.stored
		b.pulls = append(b.pulls, d)
		p.stored, p.dirty, p.delta = true, false, pullDelta{}
	}
	clear(l.dirtyRobots)
	clear(l.dirtyPulls)
	l.dirtyRobots, l.dirtyPulls, l.events = l.dirtyRobots[:0], l.dirtyPulls[:0], 0
	return b
}

// clean makes a stranger's text fit to be kept and shown: no control characters, which a terminal would obey.
func clean(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
		for range utf8.UTFMax - 1 { // not in the middle of a character
			if r, size := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || size != 1 {
				break
			}
			s = s[:len(s)-1]
		}
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '·'
		}
		return r
	}, strings.Clone(s))
}
