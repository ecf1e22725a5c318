package access

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

	"github.com/plimsoll/plimsoll/internal/durable"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// File is the name of the store's file in the data folder, for who watches it.
const File = "access.json"

const (
	apiVersion = "plimsoll.access.v1"
	lockFile   = "access.lock"
)

// document is access.json.
type document struct {
	APIVersion string    `json:"apiVersion"`
	Accounts   []Account `json:"accounts"` // sorted by name
}

// NoAccountError says that an account is not there.
type NoAccountError struct{ Name string }

func (e *NoAccountError) Error() string { return fmt.Sprintf("account %s: there is none", e.Name) }

// ExistsError says that a name is taken.
type ExistsError struct {
	Name string // as it is in the store: names that differ in case only are one
	Role Role
}

func (e *ExistsError) Error() string {
	return fmt.Sprintf("account %s exists already, with role %s", e.Name, e.Role)
}

// Store is access.json in a data folder. It holds no secret in the clear. Several processes may have it open: changes are
// made under a lock, and readers see the file before a change or after it.
type Store struct {
	dir     string
	journal Journal // may be nil; see SetJournal
}

// Open opens the store in a data folder, which is made if it is not there. A store without a file has no accounts.
func Open(dir string) (*Store, error) {
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("accounts: %w", err)
	}
	s := &Store{dir: dir}
	// A restored backup or a careless copy must not leave the hashes for every user of the machine to try.
	switch info, err := os.Stat(s.path()); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("accounts: %w", err)
	case info.Mode().Perm()&^0o600 != 0:
		if err := os.Chmod(s.path(), 0o600); err != nil {
			return nil, fmt.Errorf("accounts: %w", err)
		}
	}
	return s, nil
}

func (s *Store) path() string { return filepath.Join(s.dir, File) }

// Accounts reads all accounts, sorted by name.
func (s *Store) Accounts() ([]Account, error) {
	f, err := os.Open(s.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("accounts: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("accounts: %w", err)
	}
	accounts, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("accounts: %s: %w", s.path(), err)
	}
	return accounts, nil
}

// Account reads one account; the error is a *NoAccountError when it is not there.
func (s *Store) Account(name string) (Account, error) {
	accounts, err := s.Accounts()
	if err != nil {
		return Account{}, err
	}
	i, found := find(accounts, name)
	if !found {
		return Account{}, &NoAccountError{name}
	}
	return accounts[i], nil
}

// Add adds an account; the error is an *ExistsError when its name is taken.
func (s *Store) Add(ctx context.Context, a Account) error {
	return s.change(ctx, a.Name, func(accounts []Account) ([]Account, error) {
		for _, other := range accounts {
			if strings.EqualFold(other.Name, a.Name) {
				return nil, &ExistsError{other.Name, other.Role}
			}
		}
		i, _ := find(accounts, a.Name)
		return slices.Insert(accounts, i, a), nil
	})
}

// Update changes one account by fn, whose error leaves everything as it was.
func (s *Store) Update(ctx context.Context, name string, fn func(*Account) error) error {
	return s.change(ctx, name, func(accounts []Account) ([]Account, error) {
		i, found := find(accounts, name)
		if !found {
			return nil, &NoAccountError{name}
		}
		if err := fn(&accounts[i]); err != nil {
			return nil, err
		}
		if accounts[i].Name != name {
			return nil, fmt.Errorf("account %s: its name cannot change", name)
		}
		return accounts, nil
	})
}

// Remove removes an account with all its credentials. An error of check, which sees the account first, leaves it there.
func (s *Store) Remove(ctx context.Context, name string, check func(Account) error) error {
	return s.change(ctx, name, func(accounts []Account) ([]Account, error) {
		i, found := find(accounts, name)
		if !found {
			return nil, &NoAccountError{name}
		}
		if err := check(accounts[i]); err != nil {
			return nil, err
		}
		return slices.Delete(accounts, i, i+1), nil
	})
}

// change reads, changes and writes the file while no other process does. Only the account with the name is another one
// then.
func (s *Store) change(ctx context.Context, name string, fn func([]Account) ([]Account, error)) (err error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return fmt.Errorf("accounts: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	accounts, err := s.Accounts()
	if err != nil {
		return err
	}
	before := slices.Clone(accounts)
	if accounts, err = fn(accounts); err != nil {
		return err
	}
	data, err := encode(accounts)
	if err != nil {
		return fmt.Errorf("accounts: %w", err)
	}
	return s.recorded(ctx, name, before, accounts, func() error {
		if err := durable.WriteFile(s.path(), data, 0o600); err != nil {
			return fmt.Errorf("accounts: %w", err)
		}
		return nil
	})
}

// lock waits until no other process holds the lock. Closing the file releases it, as the death of the process does.
func (s *Store) lock(ctx context.Context) (unlock func() error, err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := durable.Lock(ctx, f, nil); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f.Close, nil
}

func find(accounts []Account, name string) (int, bool) {
	return slices.BinarySearchFunc(accounts, name, func(a Account, n string) int { return strings.Compare(a.Name, n) })
}

// encode gives the file's bytes, after the same checks that reading them makes: what could not be read is not written.
func encode(accounts []Account) ([]byte, error) {
	if accounts == nil {
		accounts = []Account{}
	}
	data, err := strictjson.Marshal(document{apiVersion, accounts})
	if err != nil {
		return nil, err
	}
	if _, err := parse(data); err != nil {
		return nil, err
	}
	return data, nil
}

func parse(data []byte) ([]Account, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("more than %d bytes", maxFile)
	}
	var doc document
	if err := strictjson.UnmarshalCanonical(data, &doc); err != nil {
		return nil, err
	}
	if doc.APIVersion != apiVersion {
		return nil, fmt.Errorf("apiVersion %.80q, this version reads %q", doc.APIVersion, apiVersion)
	}
	if doc.Accounts == nil {
		return nil, errors.New("no list of accounts")
	}
	return doc.Accounts, checkAccounts(doc.Accounts)
}
