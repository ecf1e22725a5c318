package seen

import (
	"context"
	"time"
)

// How much is removed at once. Small steps keep transactions short; and a clock that is wrong for an hour makes
// everything look old, but removes only what an hour's steps reach.
const (
	pruneEvery  = time.Minute
	pruneStep   = 200   // rows that are looked at for their age, or whether they are used
	pruneExtra  = 100   // rows removed besides as many as were added
	pruneRobots = 1_000 // new robots that do not wait for the minute
	pruneMany   = 5_000 // robots, or sums of days, removed at once

	// What is older than this program was recorded by a clock that was not set yet. How old it is nobody knows, and it
	// leaves when there are too many rows.
	firstMilli = 1_577_836_800_000 // the beginning of 2020
)

// Ids grow by one with each row, so that their span bounds the number of rows without counting them.
const (
	dropPulls = `DELETE FROM pulls WHERE id IN (SELECT id FROM pulls
		WHERE id <= (SELECT max(id) FROM pulls) - ?1 ORDER BY id LIMIT ?2)`
	dropDays = `DELETE FROM days WHERE id IN (SELECT id FROM days
		WHERE id <= (SELECT max(id) FROM days) - ?1 ORDER BY id LIMIT ?2)`
	dropRobots = `DELETE FROM robots WHERE id IN (SELECT id FROM robots
		WHERE NOT EXISTS (SELECT 1 FROM pulls WHERE robot = robots.id) ORDER BY last
		LIMIT min(?2, max(0, (SELECT count(*) FROM robots) - ?1)))`
	dropOldDays  = `DELETE FROM days WHERE id IN (SELECT id FROM days WHERE day >= ?1 AND day < ?2 LIMIT ?3)`
	nextPulls    = `SELECT coalesce(max(id), 0), count(*) FROM (SELECT id FROM pulls WHERE id > ?1 ORDER BY id LIMIT ?2)`
	nextImages   = `SELECT coalesce(max(id), 0), count(*) FROM (SELECT id FROM images WHERE id > ?1 ORDER BY id LIMIT ?2)`
	dropOldPulls = `DELETE FROM pulls WHERE id > ?1 AND id <= ?2 AND start >= ?3 AND start < ?4`
	dropNoImages = `DELETE FROM images WHERE id > ?1 AND id <= ?2 AND NOT EXISTS (SELECT 1 FROM pulls WHERE image = images.id)`
)

// pruner keeps the tables within their bounds.
type pruner struct {
	pulls, robots   int // added since they were looked at
	last            time.Time
	pullAt, imageAt int64 // how far the walks for age and for unused images got
}

// run removes what is too much or too old. It is called after each transaction and has little to do mostly.
func (p *pruner) run(w *writer) error {
	o, now := &w.db.options, time.Now()
	regular := p.last.IsZero() || now.Sub(p.last) >= pruneEvery
	if p.pulls > 0 {
		if _, err := w.remove(dropPulls, o.MaxPulls, p.pulls+pruneExtra); err != nil {
			return err
		}
		p.pulls = 0
	}
	if regular || p.robots >= pruneRobots {
		n, err := w.remove(dropRobots, o.MaxRobots, pruneMany)
		if err != nil {
			return err
		}
		if n > 0 {
			w.names++
		}
		p.robots = 0
		if _, err := w.remove(dropDays, o.MaxPulls, pruneMany); err != nil {
			return err
		}
	}
	if !regular {
		return nil
	}
	p.last = now
	oldest := now.Add(-o.MaxAge).UnixMilli()
	if _, err := w.walk(&p.pullAt, nextPulls, dropOldPulls, firstMilli, oldest); err != nil {
		return err
	}
	if _, err := w.remove(dropOldDays, firstMilli/millisOfDay, floorDiv(oldest, millisOfDay), pruneStep); err != nil {
		return err
	}
	n, err := w.walk(&p.imageAt, nextImages, dropNoImages)
	if n > 0 {
		w.names++
	}
	return err
}

// walk removes what is not wanted among the next rows of a table, and begins again when it is through: it must not
// follow the rows that are added at the end.
func (w *writer) walk(at *int64, next, drop string, args ...any) (int64, error) {
	var to, rows int64
	if err := w.file.conn.QueryRowContext(context.Background(), next, *at, pruneStep).Scan(&to, &rows); err != nil {
		return 0, err
	}
	n, err := w.remove(drop, append([]any{*at, to}, args...)...)
	if *at = to; rows < pruneStep {
		*at = 0
	}
	return n, err
}

func (w *writer) remove(query string, args ...any) (int64, error) {
	res, err := w.file.conn.ExecContext(context.Background(), query, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}
