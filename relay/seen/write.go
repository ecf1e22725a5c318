package seen

import (
	"context"
	"fmt"
	"time"
)

// How long events are gathered. What is not yet written is lost when the process is killed; each transaction wears the
// disk of a small box.
const (
	gatherFor  = 100 * time.Millisecond // before the queue is looked at, unless it is half full
	writeAfter = time.Second            // a pull
	touchAfter = 10 * time.Second       // when nothing changed but who was seen
	writeRows  = 500                    // of history are written at once
	sweepEvery = 10 * time.Minute
	retryFirst = time.Second
	retryMax   = time.Minute
)

// Run writes what Record takes up until ctx ends, then writes what is left and closes the file. Trouble with the file
// is no error: recording pauses, events are dropped and counted, and it goes on when the file can be written again.
func (db *DB) Run(ctx context.Context) error {
	var (
		work   = make(chan *batch)
		idle   = make(chan struct{})
		l      = newLedger()
		spare  = make([]Event, 0, db.options.Queue)
		busy   = true // with opening the file
		gather = stoppedTimer()
		due    = stoppedTimer()
		sweep  = time.NewTicker(sweepEvery)
	)
	defer sweep.Stop()
	go func() {
		defer close(idle)
		w := writer{db: db}
		defer w.close()
		w.write(ctx, nil)
		idle <- struct{}{}
		for b := range work {
			w.write(ctx, b)
			idle <- struct{}{}
		}
	}()
	take := func() {
		spare = db.take(spare)
		for i := range spare {
			if !l.add(&spare[i]) {
				db.dropped.Add(1)
			}
		}
		clear(spare) // a request's strings are not kept alive
	}
	var since time.Time // since when something waits; zero if nothing does
	for gathering := false; ; {
		select {
		case <-ctx.Done():
			take()
			if busy {
				<-idle
			}
			if waits, _ := l.pending(); waits {
				work <- l.take()
				<-idle
			}
			close(work)
			<-idle
			return nil
		case <-db.wake:
			if gathering = !gathering && !db.halfFull(); gathering {
				gather.Reset(gatherFor)
			} else {
				gather.Stop()
				take()
			}
		case <-gather.C:
			gathering = false
			take()
		case <-due.C:
		case <-idle:
			busy = false
		case now := <-sweep.C:
			l.sweep(now)
		}
		waits, rows := l.pending()
		if !waits {
			continue
		}
		now := time.Now()
		if since.IsZero() {
			since = now
		}
		if busy {
			continue
		}
		if left := patience(rows) - now.Sub(since); left > 0 {
			due.Reset(left)
			continue
		}
		due.Stop()
		since, busy = time.Time{}, true
		work <- l.take()
	}
}

// patience is how long a number of changed rows of history may wait.
func patience(rows int) time.Duration {
	switch {
	case rows >= writeRows:
		return 0
	case rows > 0:
		return writeAfter
	}
	return touchAfter
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// writer owns the file. It runs beside what adds events up, so that a disk which hesitates does not fill the queue.
type writer struct {
	db    *DB
	file  *file
	epoch uint64 // of the file: what was written into another one is not in this one
	names uint64 // of robots and images: after some were removed they are looked up again
	prune pruner
	wait  time.Duration // before the next try

	untidy bool // old rows could not be removed, and it was said
}

// write puts a batch into the file, and tries again until it can be or ctx ends. A nil batch only opens the file.
func (w *writer) write(ctx context.Context, b *batch) {
	for {
		err := w.try(b)
		if err != nil && isDamaged(err) {
			if err = w.renew(err); err == nil {
				err = w.try(b)
			}
		}
		w.tell(err)
		if err == nil {
			if b != nil {
				w.db.recorded.Add(b.events)
			}
			return
		}
		if ctx.Err() != nil {
			if b != nil {
				w.db.dropped.Add(b.events)
			}
			return
		}
		wait := time.NewTimer(w.wait)
		select {
		case <-wait.C:
		case <-ctx.Done(): // one more try
			wait.Stop()
		}
	}
}

// tell keeps the state of pausing, and says once when it begins and when it ends.
func (w *writer) tell(err error) {
	log := w.db.options.Log
	switch paused := w.db.paused.Swap(err != nil); {
	case err != nil && !paused:
		w.wait = retryFirst
		log.Warn("pulls are not recorded for now", "file", w.db.path, "error", err)
	case err != nil:
		w.wait = min(2*w.wait, retryMax)
	case paused:
		log.Info("pulls are recorded again", "file", w.db.path, "dropped", w.db.dropped.Load())
	}
	if w.db.tried != nil {
		w.db.tried(err)
	}
}

// renew puts a damaged file aside; the next try makes a new one.
func (w *writer) renew(damage error) error {
	w.close()
	w.db.options.Log.Warn("the history of pulls is damaged and begins anew", "file", w.db.path, "aside", w.db.path+damagedSuffix, "error", damage)
	return putAside(w.db.path)
}

// try writes a batch in one transaction. After an error the file is closed: a connection that has failed can fail for
// ever, and a file that was mended is seen only by a new one.
func (w *writer) try(b *batch) (err error) {
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.file != nil && !w.file.present(w.db.path) {
		w.close()
	}
	if w.file == nil {
		var pragmas []string
		if w.db.pragmas != nil {
			pragmas = w.db.pragmas()
		}
		f, fresh, err := openFile(w.db.path, pragmas)
		if err != nil {
			return fmt.Errorf("open %s: %w", w.db.path, err)
		}
		if w.file = f; fresh {
			w.epoch++
			w.names++
			w.prune = pruner{}
		}
	}
	if b == nil {
		return nil
	}
	if _, err := w.file.begin.Exec(); err != nil {
		return err
	}
	err = w.apply(b)
	if err == nil {
		_, err = w.file.commit.Exec()
	}
	if err != nil {
		b.forget() // closing the file undoes the rest
		return fmt.Errorf("write %s: %w", w.db.path, err)
	}
	w.tidy()
	return nil
}

// tidy removes what is too old. What was written is written: an error here must not make the caller write it again.
func (w *writer) tidy() {
	err := w.prune.run(w)
	if err != nil && !w.untidy {
		w.db.options.Log.Warn("old pulls are not removed for now", "file", w.db.path, "error", err)
	}
	if w.untidy = err != nil; w.untidy {
		if isDamaged(err) {
			w.renew(err) //nolint:errcheck // if that fails, so will the next try to write, which says so
		}
		w.close()
	}
}

func (w *writer) close() {
	if w.file != nil {
		w.file.close() //nolint:errcheck // what was committed is in the file or in its log
		w.file = nil
	}
}

func (w *writer) apply(b *batch) error {
	for i := range b.robots {
		if err := w.applyRobot(&b.robots[i]); err != nil {
			return fmt.Errorf("robot: %w", err)
		}
	}
	for i := range b.days {
		d := &b.days[i]
		if _, err := w.file.day.Exec(d.day, d.robot.id.row, d.requests, d.pulls, d.bytes, d.other); err != nil {
			return fmt.Errorf("day: %w", err)
		}
	}
	for i := range b.pulls {
		if err := w.applyPull(&b.pulls[i]); err != nil {
			return fmt.Errorf("pull: %w", err)
		}
	}
	return nil
}

func (w *writer) applyRobot(d *robotDelta) error {
	r := d.robot
	if r.id.epoch == w.names && r.id.row != 0 {
		_, err := w.file.growRobot.Exec(r.id.row, d.address, d.agent, d.last, d.generation, d.requests, d.pulls, d.bytes)
		return err
	}
	err := w.file.addRobot.QueryRow(r.key.name, r.key.host, d.address, d.agent, d.first, d.last, d.generation,
		d.requests, d.pulls, d.bytes).Scan(&r.id.row)
	r.id.epoch = w.names
	w.prune.robots++
	return err
}

func (w *writer) applyPull(d *pullDelta) error {
	p := d.pull
	if !d.first {
		if p.id.epoch != w.epoch {
			return nil // its row went away with the file that it was in
		}
		_, err := w.file.growPull.Exec(p.id.row, d.end, d.times, d.blobs, d.bytes)
		return err
	}
	img := p.image
	if img.id.epoch != w.names || img.id.row == 0 {
		if err := w.file.addImage.QueryRow(img.kind, img.repository, img.reference, string(img.digest)).Scan(&img.id.row); err != nil {
			return err
		}
		img.id.epoch = w.names
	}
	res, err := w.file.addPull.Exec(p.robot.id.row, img.id.row, p.generation, p.status, p.start.UnixMilli(), d.end, d.times, d.blobs, d.bytes)
	if err != nil {
		return err
	}
	p.id.epoch = w.epoch
	p.id.row, err = res.LastInsertId()
	w.prune.pulls++
	return err
}

// forget takes back the row numbers that a transaction gave which was rolled back.
func (b *batch) forget() {
	for i := range b.robots {
		b.robots[i].robot.id = id{}
	}
	for i := range b.pulls {
		b.pulls[i].pull.image.id = id{}
		if b.pulls[i].first {
			b.pulls[i].pull.id = id{}
		}
	}
}
