package seen

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/plimsoll/plimsoll/internal/durable"
)

// The file says whose it is and in which form, in the two numbers that SQLite has for that in its header.
const (
	applicationID = 0x506c7365 // "Plse"
	schemaVersion = 1
)

// damagedSuffix is added to the name of a file that was put aside; there is one at most.
const damagedSuffix = ".damaged"

// Times are Unix times in milliseconds, days are counted since 1970 in UTC. Images are apart from pulls because
// hundreds of robots pull the same ones. A robot without a name is known by its address, which is host then. The
// ids of robots, images and pulls are never used again: the writer remembers them.
const schema = `
CREATE TABLE robots (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	name TEXT NOT NULL,
	host TEXT NOT NULL,
	address TEXT NOT NULL,
	agent TEXT NOT NULL,
	first INTEGER NOT NULL,
	last INTEGER NOT NULL,
	generation INTEGER NOT NULL,
	requests INTEGER NOT NULL,
	pulls INTEGER NOT NULL,
	bytes INTEGER NOT NULL,
	UNIQUE (name, host)
) STRICT;
CREATE TABLE images (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	kind TEXT NOT NULL,
	repository TEXT NOT NULL,
	reference TEXT NOT NULL,
	digest TEXT NOT NULL,
	UNIQUE (digest, repository, reference, kind)
) STRICT;
CREATE TABLE pulls (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	robot INTEGER NOT NULL,
	image INTEGER NOT NULL,
	generation INTEGER NOT NULL,
	status INTEGER NOT NULL,
	start INTEGER NOT NULL,
	finish INTEGER NOT NULL,
	times INTEGER NOT NULL,
	blobs INTEGER NOT NULL,
	bytes INTEGER NOT NULL
) STRICT;
CREATE INDEX pulls_robot ON pulls (robot);
CREATE INDEX pulls_image ON pulls (image);
CREATE TABLE days (
	id INTEGER PRIMARY KEY,
	day INTEGER NOT NULL,
	robot INTEGER NOT NULL,
	requests INTEGER NOT NULL,
	pulls INTEGER NOT NULL,
	bytes INTEGER NOT NULL,
	other INTEGER NOT NULL,
	UNIQUE (day, robot)
) STRICT;
`

// VersionError says that a database has a form that this program does not know.
type VersionError struct {
	Path        string
	Application int64
	Have, Want  int64
}

func (e *VersionError) Error() string {
	if e.Application != applicationID {
		return fmt.Sprintf("%s: not a history of pulls", e.Path)
	}
	return fmt.Sprintf("%s: history of pulls in form %d, want %d", e.Path, e.Have, e.Want)
}

// source is the name by which SQLite opens a file. Pragmas are set on each connection; busy_timeout comes first.
func source(path, mode string, pragmas ...string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	q := url.Values{"mode": {mode}, "_busy_timeout": {"5000"}, "_txlock": {"immediate"}, "_defensive": {"1"}, "_dqs": {"0"}, "_error_rc": {"1"}}
	for _, p := range append(pragmas, "trusted_schema(0)", "mmap_size(0)") {
		q.Add("_pragma", p)
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String(), nil
}

// file is an open database with its prepared statements, all on one connection.
type file struct {
	info os.FileInfo // to notice that somebody removed the file
	db   *sql.DB
	conn *sql.Conn

	begin, commit                                         *sql.Stmt
	addRobot, growRobot, addImage, addPull, growPull, day *sql.Stmt
}

// openFile opens the database, or makes it. fresh says that it has no rows.
func openFile(path string, pragmas []string) (f *file, fresh bool, err error) {
	// SQLite would give the file and those beside it the mode that umask leaves.
	made, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o640)
	if err != nil {
		return nil, false, err
	}
	info, err := made.Stat()
	if err := errors.Join(err, made.Close()); err != nil {
		return nil, false, err
	}
	// 2 MB of cache; the log is copied into the file at 1 MB, and does not stay larger than 4 MB after a burst.
	pragmas = append([]string{"journal_mode(WAL)", "synchronous(NORMAL)", "cache_size(-2000)", "wal_autocheckpoint(256)",
		"journal_size_limit(4194304)"}, pragmas...)
	name, err := source(path, "rw", pragmas...)
	if err != nil {
		return nil, false, err
	}
	f = &file{info: info}
	if f.db, err = sql.Open("sqlite", name); err != nil {
		return nil, false, err
	}
	if fresh, err = f.setUp(path); err != nil {
		return nil, false, errors.Join(err, f.close())
	}
	return f, fresh, nil
}

func (f *file) setUp(path string) (fresh bool, err error) {
	ctx := context.Background()
	if f.conn, err = f.db.Conn(ctx); err != nil {
		return false, err
	}
	version, err := readVersion(ctx, f.conn, path)
	if err != nil {
		return false, err
	}
	if fresh = version == (VersionError{Path: path, Want: schemaVersion}); fresh {
		make := fmt.Sprintf("BEGIN IMMEDIATE;%sPRAGMA application_id=%d;PRAGMA user_version=%d;COMMIT", schema, applicationID, schemaVersion)
		if _, err := f.conn.ExecContext(ctx, make); err != nil {
			return false, err
		}
	} else if version.Application != applicationID || version.Have != schemaVersion {
		return false, &version
	}
	for _, s := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&f.begin, `BEGIN IMMEDIATE`},
		{&f.commit, `COMMIT`},
		// The latest value counts, not the greatest: after a time with a wrong clock that one would stay for ever.
		{&f.addRobot, `INSERT INTO robots (name, host, address, agent, first, last, generation, requests, pulls, bytes)
			VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
			ON CONFLICT (name, host) DO UPDATE SET address = ?3, agent = ?4, last = ?6, generation = ?7,
			requests = requests + ?8, pulls = pulls + ?9, bytes = bytes + ?10 RETURNING id`},
		{&f.growRobot, `UPDATE robots SET address = ?2, agent = ?3, last = ?4, generation = ?5,
			requests = requests + ?6, pulls = pulls + ?7, bytes = bytes + ?8 WHERE id = ?1`},
		{&f.addImage, `INSERT INTO images (kind, repository, reference, digest) VALUES (?1, ?2, ?3, ?4)
			ON CONFLICT DO UPDATE SET kind = ?1 RETURNING id`},
		{&f.addPull, `INSERT INTO pulls (robot, image, generation, status, start, finish, times, blobs, bytes)
			VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)`},
		{&f.growPull, `UPDATE pulls SET finish = ?2, times = times + ?3, blobs = blobs + ?4, bytes = bytes + ?5 WHERE id = ?1`},
		{&f.day, `INSERT INTO days (day, robot, requests, pulls, bytes, other) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
			ON CONFLICT DO UPDATE SET requests = requests + ?3, pulls = pulls + ?4, bytes = bytes + ?5, other = other + ?6`},
	} {
		if *s.stmt, err = f.conn.PrepareContext(ctx, s.text); err != nil {
			return false, err
		}
	}
	return fresh, nil
}

// readVersion reads whose a file is. A new file has zeros and nothing in it.
func readVersion(ctx context.Context, conn *sql.Conn, path string) (v VersionError, err error) {
	v = VersionError{Path: path, Want: schemaVersion}
	var tables int64
	for _, q := range []struct {
		text string
		to   *int64
	}{
		{"PRAGMA application_id", &v.Application},
		{"PRAGMA user_version", &v.Have},
		{"SELECT count(*) FROM sqlite_schema", &tables},
	} {
		if err := conn.QueryRowContext(ctx, q.text).Scan(q.to); err != nil {
			return v, err
		}
	}
	if tables > 0 && v.Application == 0 {
		v.Application = -1 // somebody else's, without a number
	}
	return v, nil
}

func (f *file) close() error {
	var errs []error
	for _, s := range []*sql.Stmt{f.begin, f.commit, f.addRobot, f.growRobot, f.addImage, f.addPull, f.growPull, f.day} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	if f.conn != nil {
		errs = append(errs, f.conn.Close())
	}
	return errors.Join(append(errs, f.db.Close())...)
}

// present says whether the file is still the one at its path: SQLite would go on writing into a removed one.
func (f *file) present(path string) bool {
	info, err := os.Stat(path)
	return err == nil && os.SameFile(info, f.info)
}

// isDamaged tells what is wrong with the file from what is wrong around it: only the former is cured by a new file.
func isDamaged(err error) bool {
	var version *VersionError
	if errors.As(err, &version) {
		return true
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	// SQLITE_ERROR is a statement that does not fit the tables.
	return slices.Contains([]int{sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH,
		sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_FORMAT}, e.Code()&0xff)
}

// putAside renames a damaged database, in place of one that was put aside before. The log goes first: it must never be
// beside a database that it does not belong to.
func putAside(path string) error {
	for _, step := range []error{
		ignoreMissing(os.Rename(path+"-wal", path+damagedSuffix+"-wal")),
		ignoreMissing(os.Remove(path + "-shm")),
		ignoreMissing(os.Remove(path + "-journal")),
		os.Rename(path, path+damagedSuffix),
	} {
		if step != nil {
			return step
		}
	}
	return durable.SyncDir(filepath.Dir(path))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
