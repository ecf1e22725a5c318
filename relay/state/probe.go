package state

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"

	"github.com/plimsoll/plimsoll/internal/durable"
	"github.com/plimsoll/plimsoll/registry/store"
)

// NoConditionsError says that a server does not compare what it is about to replace: two relays would overwrite what the
// other decided.
type NoConditionsError struct {
	Condition string // "If-Match" or "If-None-Match"
	Err       error  // what the server answered; nil when it did what it should have refused
}

func (e *NoConditionsError) Error() string {
	text := "the S3 server cannot keep a relay's state: it does not support conditional writes (PUT with " + e.Condition + ")"
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *NoConditionsError) Unwrap() error { return e.Err }

const (
	probeFolder = "probe/" // of the bucket
	// probeMark begins the name of the file that says in the relay's own folder which object it tries. It is one of those
	// that cut writes leave, which mean nothing to anybody else.
	probeMark = ".probe.tmp-"
)

var probePattern = regexp.MustCompile(`^` + regexp.QuoteMeta(probeMark) + `([0-9a-f]{32})$`)

// Check asks, once in the life of a Bucket, whether the server compares what it is about to replace: *NoConditionsError.
// Lock does it too.
func (b *bucket) Check(ctx context.Context) (err error) {
	if b.isChecked() {
		return nil
	}
	here, err := folder(b.options.Dir).Lock(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, here.Unlock()) }()
	return b.checkOnce(ctx)
}

func (b *bucket) isChecked() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.checked
}

// checkOnce tries the server, unless that was done. The caller holds the lock of the folder: so what the folder says to
// be tried was left by a process that died.
func (b *bucket) checkOnce(ctx context.Context) error {
	if b.isChecked() {
		return nil
	}
	b.removeProbes(ctx)
	name := random() // nobody else's
	mark := b.markProbe(name)
	err := probe(ctx, b.objects, probeFolder+name)
	b.removeProbe(context.WithoutCancel(ctx), name, mark)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.checked = true
	return nil
}

// markProbe notes which object is about to be put, so that one that a killed process leaves is found again; only its own
// relay can know that nobody needs it. A disk that takes no mark keeps nobody from probing: what may stay are some bytes.
func (b *bucket) markProbe(name string) (path string) {
	path = filepath.Join(b.options.Dir, probeMark+name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err == nil {
		_ = errors.Join(f.Close(), durable.SyncDir(b.options.Dir)) // nothing is in it
	}
	return path
}

// removeProbes removes what processes of this folder left that were killed.
func (b *bucket) removeProbes(ctx context.Context) {
	entries, _ := os.ReadDir(b.options.Dir) // the next check looks again
	for _, e := range entries {
		m := probePattern.FindStringSubmatch(e.Name())
		if m != nil && !b.removeProbe(ctx, m[1], filepath.Join(b.options.Dir, e.Name())) {
			return // the bucket does not answer
		}
	}
}

// removeProbe removes the object and then the mark: as long as the object may be there, the mark says so. It is of no use,
// and of no harm when it stays.
func (b *bucket) removeProbe(ctx context.Context, name, mark string) bool {
	ctx, cancel := context.WithTimeout(ctx, defaultRenew)
	defer cancel()
	if err := b.objects.Delete(ctx, probeFolder+name); err != nil {
		return false
	}
	return os.Remove(mark) == nil
}

func probe(ctx context.Context, objects Objects, name string) error {
	put := func(content, replaces string) (string, error) {
		return objects.Put(ctx, name, []byte(content), replaces)
	}
	const none, match = "If-None-Match", "If-Match"
	tag, err := put("1", store.NoObject)
	if errors.Is(err, store.ErrPrecondition) { // done, and the answer was lost
		tag, err = objects.Tag(ctx, name)
	}
	if err != nil {
		return unsupported(none, err)
	}
	if _, err := put("2", store.NoObject); !errors.Is(err, store.ErrPrecondition) {
		return unsupported(none, err)
	}
	if _, err := put("3", `"00000000000000000000000000000000"`); !errors.Is(err, store.ErrPrecondition) {
		return unsupported(match, err)
	}
	again, err := put("4", tag)
	if errors.Is(err, store.ErrPrecondition) {
		if again, err = objects.Tag(ctx, name); err == nil && again == tag {
			return &NoConditionsError{Condition: match, Err: errors.New("it refused the right tag")}
		}
	}
	if err != nil {
		return unsupported(match, err)
	}
	if again == tag {
		return &NoConditionsError{Condition: match, Err: errors.New("two contents have one ETag")}
	}
	return nil
}

// unsupported tells a server that does not know a condition from one that is in trouble.
func unsupported(condition string, err error) error {
	if err == nil {
		return &NoConditionsError{Condition: condition}
	}
	var e *store.S3Error
	if errors.As(err, &e) && (e.Status == 501 || e.Status == 405 || e.Status == 400) {
		return &NoConditionsError{Condition: condition, Err: err}
	}
	return err
}
