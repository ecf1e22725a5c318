package seen

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Robot is one identity, or one address of anonymous clients, and what it did in all.
type Robot struct {
	Name       string    `json:"name"` // empty for an anonymous client
	Address    string    `json:"address"`
	Agent      string    `json:"agent"`
	First      time.Time `json:"first"`
	Last       time.Time `json:"last"`
	Generation uint64    `json:"generation"` // that the latest answer came from
	Requests   int64     `json:"requests"`
	Pulls      int64     `json:"pulls"`
	Bytes      int64     `json:"bytes"` // of all answers
}

// Pull is one manifest that a robot got with the blobs it got after it, or a pack of a Git repository.
type Pull struct {
	Time       time.Time     `json:"time"`
	End        time.Time     `json:"end"`     // of the last answer that belongs to it
	Robot      string        `json:"robot"`   // empty for an anonymous client
	Address    string        `json:"address"` // the latest of the robot
	Kind       string        `json:"kind"`    // KindManifest or KindGit
	Repository string        `json:"repository"`
	Reference  string        `json:"reference,omitempty"` // the tag, if the robot asked by tag
	Digest     digest.Digest `json:"digest,omitempty"`
	Generation uint64        `json:"generation"`
	Status     int           `json:"status"`
	Times      int64         `json:"times"` // the same again within a minute is the same pull
	Blobs      int64         `json:"blobs"` // answers with bytes of blobs
	Bytes      int64         `json:"bytes"` // of the manifest and its blobs
}

// Day is what a robot did on one day.
type Day struct {
	Day      string `json:"day"` // 2006-01-02, UTC
	Robot    string `json:"robot"`
	Address  string `json:"address"`
	Requests int64  `json:"requests"`
	Pulls    int64  `json:"pulls"`
	Bytes    int64  `json:"bytes"` // of all answers
	Other    int64  `json:"other"` // of them, bytes that belong to no pull
}

// Query selects pulls. The zero value selects all of them.
type Query struct {
	Robot      string    // a name, or the address of an anonymous client
	Repository string    // a glob, in which * stands for anything, slashes too
	Digest     string    // a digest or the beginning of one, with or without its algorithm
	Since      time.Time // inclusive
	Until      time.Time // exclusive
	Limit      int       // the latest so many; all if zero
}

// pageSize is how many pulls are read at once.
const pageSize = 1_000

// Reader reads a database that another process may be writing.
type Reader struct{ db *sql.DB }

// OpenReader opens a database. The error is fs.ErrNotExist as long as nothing was recorded, and a *VersionError for the
// database of another version.
func OpenReader(path string) (*Reader, error) {
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if info.Size() == 0 {
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist) // it is being made
	}
	name, err := source(path, "ro", "cache_size(-2000)", "query_only(1)")
	if err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", name)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if err := checkReadable(db, path); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &Reader{db}, nil
}

func checkReadable(db *sql.DB, path string) error {
	ctx := context.Background()
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer conn.Close() //nolint:errcheck // it goes back into the pool
	v, err := readVersion(ctx, conn, path)
	switch {
	case err != nil:
		return fmt.Errorf("read %s: %w", path, err)
	case v == VersionError{Path: path, Want: schemaVersion}:
		return fmt.Errorf("%s: %w", path, fs.ErrNotExist) // it is being made
	case v.Application != applicationID || v.Have != schemaVersion:
		return &v
	}
	return nil
}

// Close closes the database.
func (r *Reader) Close() error { return r.db.Close() }

// Robots lists who was seen, the latest first.
func (r *Reader) Robots(ctx context.Context) ([]Robot, error) {
	rows, err := r.db.QueryContext(ctx, `SELECT name, address, agent, first, last, generation, requests, pulls, bytes
		FROM robots ORDER BY last DESC, id DESC`)
	if err != nil {
		return nil, fmt.Errorf("robots: %w", err)
	}
	defer rows.Close() //nolint:errcheck // Err has it
	robots := []Robot{}
	for rows.Next() {
		var b Robot
		var first, last int64
		if err := rows.Scan(&b.Name, &b.Address, &b.Agent, &first, &last, &b.Generation, &b.Requests, &b.Pulls, &b.Bytes); err != nil {
			return nil, fmt.Errorf("robots: %w", err)
		}
		b.First, b.Last = instant(first), instant(last)
		robots = append(robots, b)
	}
	return robots, rows.Err()
}

// Days lists what robots did on each day, the latest first. Of a query only Robot, Since, Until and Limit matter, the
// times rounded down to days.
func (r *Reader) Days(ctx context.Context, q Query) ([]Day, error) {
	var where conditions
	where.robot(q.Robot)
	if !q.Since.IsZero() {
		where.add("days.day >= ?", floorDiv(q.Since.UnixMilli(), millisOfDay))
	}
	if !q.Until.IsZero() {
		where.add("days.day <= ?", floorDiv(q.Until.UnixMilli()-1, millisOfDay))
	}
	rows, err := r.db.QueryContext(ctx, `SELECT days.day, robots.name, robots.address, days.requests, days.pulls, days.bytes, days.other
		FROM days JOIN robots ON robots.id = days.robot`+where.String()+
		` ORDER BY days.day DESC, days.bytes DESC, robots.name, robots.host`+limit(q.Limit), where.args...)
	if err != nil {
		return nil, fmt.Errorf("days: %w", err)
	}
	defer rows.Close() //nolint:errcheck // Err has it
	days := []Day{}
	for rows.Next() {
		var d Day
		var day int64
		if err := rows.Scan(&day, &d.Robot, &d.Address, &d.Requests, &d.Pulls, &d.Bytes, &d.Other); err != nil {
			return nil, fmt.Errorf("days: %w", err)
		}
		d.Day = instant(day * millisOfDay).Format(time.DateOnly)
		days = append(days, d)
	}
	return days, rows.Err()
}

// Pulls lists what a query selects, the latest recorded first.
func (r *Reader) Pulls(ctx context.Context, q Query) ([]Pull, error) {
	pulls := []Pull{}
	err := r.Walk(ctx, q, func(p Pull) error {
		pulls = append(pulls, p)
		return nil
	})
	return pulls, err
}

// Walk is Pulls for histories that do not fit into memory. It ends at fn's first error.
func (r *Reader) Walk(ctx context.Context, q Query, fn func(Pull) error) error {
	var where conditions
	where.robot(q.Robot)
	if q.Repository != "" {
		where.add("images.repository GLOB ?", q.Repository)
	}
	if q.Digest != "" {
		if strings.ContainsAny(q.Digest, "*?[") {
			return fmt.Errorf("pulls: %q is not a digest", q.Digest)
		}
		pattern := q.Digest + "*"
		if !strings.Contains(q.Digest, ":") {
			pattern = "*:" + pattern
		}
		where.add("images.digest GLOB ?", pattern)
	}
	if !q.Since.IsZero() {
		where.add("pulls.start >= ?", q.Since.UnixMilli())
	}
	if !q.Until.IsZero() {
		where.add("pulls.start < ?", q.Until.UnixMilli())
	}
	at := int64(math.MaxInt64)
	for left := q.Limit; ; {
		n := pageSize
		if q.Limit > 0 {
			n = min(n, left)
		}
		page, last, err := r.page(ctx, where, at, n)
		if err != nil {
			return fmt.Errorf("pulls: %w", err)
		}
		for _, p := range page {
			if err := fn(p); err != nil {
				return err
			}
		}
		at, left = last, left-len(page)
		if len(page) < n || q.Limit > 0 && left == 0 {
			return nil
		}
	}
}

// page reads some of the rows before a number, and gives the number of the last one. Between pages nothing is held: the
// log of a database that is read grows, and whoever reads may have gone for lunch with the first screen before his eyes.
func (r *Reader) page(ctx context.Context, where conditions, before int64, n int) (page []Pull, last int64, err error) {
	where.add("pulls.id < ?", before)
	rows, err := r.db.QueryContext(ctx, `SELECT pulls.id, pulls.start, pulls.finish, robots.name, robots.address, images.kind,
		images.repository, images.reference, images.digest, pulls.generation, pulls.status, pulls.times, pulls.blobs, pulls.bytes
		FROM pulls JOIN robots ON robots.id = pulls.robot JOIN images ON images.id = pulls.image`+where.String()+
		` ORDER BY pulls.id DESC`+limit(n), where.args...)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close() //nolint:errcheck // Err has it
	for rows.Next() {
		var p Pull
		var start, finish int64
		if err := rows.Scan(&last, &start, &finish, &p.Robot, &p.Address, &p.Kind, &p.Repository, &p.Reference, &p.Digest,
			&p.Generation, &p.Status, &p.Times, &p.Blobs, &p.Bytes); err != nil {
			return nil, 0, err
		}
		p.Time, p.End = instant(start), instant(finish)
		page = append(page, p)
	}
	return page, last, rows.Err()
}

// conditions are the terms of a WHERE clause with their values.
type conditions struct {
	terms []string
	args  []any
}

func (c *conditions) add(term string, args ...any) {
	c.terms = append(slices.Clip(c.terms), term)
	c.args = append(slices.Clip(c.args), args...)
}

func (c *conditions) robot(name string) {
	if name != "" {
		c.add("(robots.name = ? OR robots.name = '' AND robots.host = ?)", name, name)
	}
}

func (c *conditions) String() string {
	if len(c.terms) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(c.terms, " AND ")
}

func limit(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" LIMIT %d", n)
}

func instant(ms int64) time.Time { return time.UnixMilli(ms).UTC() }
