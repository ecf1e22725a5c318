package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/plimsoll/plimsoll/internal/durable"
)

const (
	asidePrefix = "damaged-"
	reasonFile  = "reason.txt"
	maxReason   = 4 << 10 // bytes
	maxAside    = 10_000  // folders
)

// Aside says where a damaged journal was put.
type Aside struct {
	Folder     string `json:"folder"`               // below the journal's folder
	Reason     string `json:"reason"`               // why
	Checkpoint string `json:"checkpoint,omitempty"` // its last one, as it was found
}

// Repair begins a new journal when the present one is damaged, and gives nil when it is not. Nothing is thrown away: the
// damaged one is put aside, and the first record of the new one, of KindRestarted, names it with its last checkpoint. No
// consistency can be proved across the gap, which is the truth.
//
// A crash on the way leaves a damaged journal again, or a new one that has its first record to write yet, which the next
// Append does.
func (j *Journal) Repair(ctx context.Context) (*Aside, error) {
	_, err := verify(ctx, j.dir, j.key(), nil)
	if err == nil {
		err = j.locked(ctx, func(*head) error { return nil })
	}
	var corrupt *CorruptError
	switch {
	case err == nil:
		return nil, nil
	case !errors.As(err, &corrupt):
		return nil, fmt.Errorf("journal: %w", err) // the disk is in trouble; that may pass
	}
	unlock, lockErr := j.lock(ctx)
	if lockErr != nil {
		return nil, fmt.Errorf("journal: %w", lockErr)
	}
	moveErr := j.move(err.Error())
	if err := errors.Join(moveErr, unlock()); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if _, err := j.Checkpoint(ctx); err != nil {
		return nil, err
	}
	aside, err := j.putAside()
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return aside, nil
}

// move puts the files into a new folder, with the reason first: where there is a folder there is a reason.
func (j *Journal) move(reason string) error {
	last, err := j.lastAside()
	if err != nil {
		return err
	}
	dir := j.path(asidePrefix + strconv.Itoa(last+1))
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(dir, reasonFile), []byte(reason+"\n"), 0o644); err != nil {
		return err
	}
	for _, name := range []string{recordsFile, hashesFile, checkpointFile} {
		if err := os.Rename(j.path(name), filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return errors.Join(durable.SyncDir(dir), durable.SyncDir(j.dir))
}

// lastAside is the number of the last folder that was put aside; 0 without one.
func (j *Journal) lastAside() (int, error) {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return 0, err
	}
	last := 0
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), asidePrefix)
		if n, err := strconv.Atoi(digits); ok && err == nil && n > last && n < maxAside {
			last = n
		}
	}
	return last, nil
}

// putAside describes the journal that was put aside last; nil without one.
func (j *Journal) putAside() (*Aside, error) {
	last, err := j.lastAside()
	if err != nil || last == 0 {
		return nil, err
	}
	a := &Aside{Folder: asidePrefix + strconv.Itoa(last)}
	if a.Reason, err = readText(j.path(filepath.Join(a.Folder, reasonFile)), maxReason); err != nil {
		return nil, err
	}
	a.Reason = strings.TrimSuffix(a.Reason, "\n")
	if a.Checkpoint, err = readText(j.path(filepath.Join(a.Folder, checkpointFile)), MaxCheckpoint); err != nil {
		return nil, err
	}
	return a, nil
}

// readText reads the beginning of a file that may be missing, or hold anything.
func readText(path string, most int64) (string, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read from
	data, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil || !utf8.Valid(data) {
		return "", err
	}
	return string(data), nil
}
