package hooks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/internal/durable"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// The files in the data folder. File has secrets: mode 0600. StateFile is derived: without it everybody is told again.
const (
	File      = "hooks.json"
	StateFile = "hooks-state.json"
	lockFile  = "hooks.lock"
)

const fileVersion = "plimsoll.hooks.v1"

// document is hooks.json.
type document struct {
	APIVersion string `json:"apiVersion"`
	Hooks      []Hook `json:"hooks"` // sorted by name
}

// NoHookError says that there is no hook of a name.
type NoHookError struct{ Name string }

func (e *NoHookError) Error() string { return fmt.Sprintf("hook %.80s: there is none", e.Name) }

// ExistsError says that a name is taken.
type ExistsError struct{ Name string }

func (e *ExistsError) Error() string { return fmt.Sprintf("hook %s: there is one already", e.Name) }

// Store is hooks.json in a data folder. Changes are made under a lock; readers see the file before one or after it.
type Store struct {
	dir     string
	journal Journal // may be nil; see SetJournal
}

// Open gives the hooks of a data folder. Without a file there are none.
func Open(dir string) *Store { return &Store{dir: dir} }

func (s *Store) path() string { return filepath.Join(s.dir, File) }

// Hooks reads all hooks, sorted by name.
func (s *Store) Hooks() ([]Hook, error) {
	hooks, _, err := s.read()
	return hooks, err
}

// read gives also what the file was, to know whether it is another one later; nil without one.
func (s *Store) read() ([]Hook, fs.FileInfo, error) {
	f, err := os.Open(s.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("hooks: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	fi, err := f.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("hooks: %w", err)
	}
	// A restored backup or a careless copy must not leave the secrets to every user of the machine.
	if fi.Mode().Perm()&0o077 != 0 {
		if err := f.Chmod(0o600); err != nil && !errors.Is(err, unix.EROFS) {
			return nil, fi, fmt.Errorf("hooks: %w", err)
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fi, fmt.Errorf("hooks: %w", err)
	}
	hooks, err := parse(data)
	if err != nil {
		return nil, fi, fmt.Errorf("%s: %w", s.path(), err)
	}
	return hooks, fi, nil
}

// Hook reads one; the error is a *NoHookError when it is not there.
func (s *Store) Hook(name string) (Hook, error) {
	hooks, err := s.Hooks()
	if err != nil {
		return Hook{}, err
	}
	i, found := find(hooks, name)
	if !found {
		return Hook{}, &NoHookError{name}
	}
	return hooks[i], nil
}

// Add adds a hook; the error is an *ExistsError when its name is taken, a *ConfigError when it makes no sense.
func (s *Store) Add(ctx context.Context, h Hook) error {
	if err := h.Validate(); err != nil {
		return err
	}
	return s.change(ctx, kindAdd, h.Name, func(hooks []Hook) ([]Hook, error) {
		i, found := find(hooks, h.Name)
		if found {
			return nil, &ExistsError{h.Name}
		}
		return slices.Insert(hooks, i, h), nil
	})
}

// Remove removes a hook; the error is a *NoHookError when it is not there.
func (s *Store) Remove(ctx context.Context, name string) error {
	return s.change(ctx, kindRemove, name, func(hooks []Hook) ([]Hook, error) {
		i, found := find(hooks, name)
		if !found {
			return nil, &NoHookError{name}
		}
		return slices.Delete(hooks, i, i+1), nil
	})
}

// change reads, changes and writes the file while no other process does. The kind is what the journal calls what is done
// to the hook with the name.
func (s *Store) change(ctx context.Context, kind, name string, fn func([]Hook) ([]Hook, error)) (err error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return fmt.Errorf("hooks: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	hooks, err := s.Hooks()
	if err != nil {
		return err
	}
	before := slices.Clone(hooks)
	if hooks, err = fn(hooks); err != nil {
		return err
	}
	data, err := strictjson.Marshal(document{fileVersion, append([]Hook{}, hooks...)})
	if err != nil {
		return fmt.Errorf("hooks: %w", err)
	}
	if _, err := parse(data); err != nil { // what could not be read is not written
		return fmt.Errorf("hooks: %w", err)
	}
	about := hooks
	if kind == kindRemove {
		about = before
	}
	return s.recorded(ctx, kind, name, about, func() error {
		if err := durable.WriteFile(s.path(), data, 0o600); err != nil {
			return fmt.Errorf("hooks: %w", err)
		}
		return nil
	})
}

// lock waits until no other process holds the lock. Closing the file releases it, as the death of the process does.
func (s *Store) lock(ctx context.Context) (unlock func() error, err error) {
	if err := durable.MkdirAll(s.dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(s.dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := durable.Lock(ctx, f, nil); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f.Close, nil
}

func find(hooks []Hook, name string) (int, bool) {
	return slices.BinarySearchFunc(hooks, name, func(h Hook, n string) int { return strings.Compare(h.Name, n) })
}

// parse reads hooks.json. No error of it quotes a secret.
func parse(data []byte) ([]Hook, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("more than %d bytes", maxFile)
	}
	var doc document
	if err := strictjson.UnmarshalCanonical(data, &doc); err != nil {
		return nil, err
	}
	if doc.APIVersion != fileVersion {
		return nil, fmt.Errorf("apiVersion %.80q, this version reads %q", doc.APIVersion, fileVersion)
	}
	if doc.Hooks == nil {
		return nil, errors.New("no list of hooks")
	}
	if len(doc.Hooks) > maxHooks {
		return nil, fmt.Errorf("%d hooks, the limit is %d", len(doc.Hooks), maxHooks)
	}
	for i, h := range doc.Hooks {
		if err := h.Validate(); err != nil {
			return nil, err
		}
		if i > 0 && doc.Hooks[i-1].Name >= h.Name {
			return nil, fmt.Errorf("hook %s: not sorted by name, or there twice", h.Name)
		}
	}
	return doc.Hooks, nil
}
