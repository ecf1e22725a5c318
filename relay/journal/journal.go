// Package journal is the relay's append-only record of what it accepted, refused and did.
//
// It is a transparency log (RFC 6962, golang.org/x/mod/sumdb/tlog): each record is a leaf of a hash tree whose root the
// relay signs with its own key. A record that is changed, dropped or moved later gives another root. Who holds an older
// checkpoint, say from a receipt, can tell that nothing before it was rewritten, not even by the relay.
//
// A folder has
//
//	records.jsonl  the records, one line of canonical JSON each; a record's bytes are its line without the newline
//	hashes         derived: the tree's hashes, 32 bytes each, in tlog's order; made anew when damaged or missing
//	checkpoint     a signed note (C2SP tlog-checkpoint): the relay's name, the number of records, the root
//	lock           held by the process that appends
//	damaged-<n>/   what Repair put aside
//
// To append is to write the hashes, then the next checkpoint under another name, synced; then the record, synced; then
// to rename the checkpoint. So all that needs room on the disk comes before the record, and a crash leaves the whole old
// state, or records that are not signed yet, which the next one to append signs, or half a line, which the next one cuts
// off and records as KindRecovered. A checkpoint over more records than there are is no crash but a loss: nothing is
// appended to such a journal until Repair has put it aside, so that nobody reuses the numbers of what is lost. The relay
// goes on serving meanwhile.
//
// Whoever has the disk has the key too, so the signature alone proves little against the relay's owner. The checkpoints
// that left the site do.
package journal

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/internal/durable"
	"github.com/plimsoll/plimsoll/relay/identity"
)

// Folder is where the journal is, below a relay's data folder.
const Folder = "journal"

const (
	recordsFile    = "records.jsonl"
	hashesFile     = "hashes"
	checkpointFile = "checkpoint"
	nextCheckpoint = "checkpoint.new"
	lockFile       = "lock"
)

// openPatience is how long Open waits for a process that appends: one that hangs must not keep a relay from starting.
const openPatience = 5 * time.Second

// Options are a journal's settings.
type Options struct {
	Identity *identity.Identity // signs the checkpoints; needed
	Clock    func() time.Time   // the time of records; time.Now if nil
}

// Journal appends to the journal in a folder and proves what is in it. Several processes may have one open, and all its
// methods are safe for concurrent use: each looks at the files anew.
type Journal struct {
	dir     string
	options Options
}

// Open opens the journal in a folder, which it makes if it is not there. What a crash left behind is mended at once where
// the disk lets it. A journal that is damaged, or that cannot be written to, opens all the same: a relay must start with
// it. Append says then what is wrong.
func Open(dir string, o Options) (*Journal, error) {
	if o.Identity == nil {
		return nil, errors.New("journal: no identity to sign with")
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	j := &Journal{dir: dir, options: o}
	ctx, cancel := context.WithTimeout(context.Background(), openPatience)
	defer cancel()
	_, _ = j.Checkpoint(ctx) // Append and Checkpoint say it again
	return j, nil
}

// Append writes a record. When it returns without an error, the record is on the disk. After an error it is not, unless
// the disk refused the very last step, the renaming of the checkpoint; a later Append signs it then.
//
// The kind is up to 64 lower-case letters, digits and dashes. The detail is anything that encoding/json takes; one that
// is larger than MaxDetail is recorded by its size and hash.
func (j *Journal) Append(ctx context.Context, kind string, detail any) error {
	err := checkKind(kind)
	if err == nil {
		var raw []byte
		if raw, err = encodeDetail(detail); err == nil {
			err = j.locked(ctx, func(h *head) error { return j.commit(h, kind, raw) })
		}
	}
	if err != nil {
		return fmt.Errorf("journal: append %s: %w", kind, err)
	}
	return nil
}

// Checkpoint gives the signed note over all records that are there.
func (j *Journal) Checkpoint(ctx context.Context) ([]byte, error) {
	var signed []byte
	err := j.locked(ctx, func(h *head) error {
		signed = h.checkpoint.Note
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return signed, nil
}

func (j *Journal) key() ed25519.PublicKey { return j.options.Identity.PublicKey() }

func (j *Journal) path(name string) string { return filepath.Join(j.dir, name) }

// locked runs fn with the end of the journal while no other process appends. What a crash left is mended before.
func (j *Journal) locked(ctx context.Context, fn func(*head) error) (err error) {
	unlock, err := j.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	h, err := j.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	if err := j.mend(h); err != nil {
		return err
	}
	return fn(h)
}

// lock waits for the lock. Closing the file releases it, as the death of the process does. On a disk that became
// read-only the file is there and can still be locked.
func (j *Journal) lock(ctx context.Context) (unlock func() error, err error) {
	if err := durable.MkdirAll(j.dir, 0o755); err != nil {
		return nil, err
	}
	f, err := durable.OpenLock(j.path(lockFile), 0o644)
	if refusesWrites(err) { // the files are another user's, who lets them be read
		f, err = os.Open(j.path(lockFile))
	}
	if err != nil {
		return nil, err
	}
	if err := durable.Lock(ctx, f, nil); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f.Close, nil
}

func refusesWrites(err error) bool {
	return errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)
}
