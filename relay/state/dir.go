package state

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/plimsoll/plimsoll/internal/durable"
)

// lockFile is held while somebody changes something.
const lockFile = "apply.lock"

// Dir gives the documents of a folder on this machine's disk. A version is a file: written once, then replaced.
func Dir(dir string) Documents { return folder(dir) }

type folder string

func (f folder) path(name string) string { return filepath.Join(string(f), filepath.FromSlash(name)) }

func (f folder) Read(_ context.Context, name string) (Document, error) {
	file, err := os.Open(f.path(name))
	if err != nil {
		return Document{}, err
	}
	defer file.Close()
	fi, err := file.Stat()
	if err != nil {
		return Document{}, err
	}
	data, err := io.ReadAll(io.LimitReader(file, MaxDocument+1))
	if err != nil {
		return Document{}, err
	}
	if len(data) > MaxDocument {
		return Document{}, fmt.Errorf("%s: more than %d bytes", name, MaxDocument)
	}
	return Document{Data: data, Version: versionOf(fi)}, nil
}

// versionOf tells files apart. A number that the file system gives again goes with another time.
func versionOf(fi fs.FileInfo) Version {
	ino := uint64(0)
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		ino = st.Ino
	}
	return Version(strconv.FormatUint(ino, 36) + "-" + strconv.FormatInt(fi.ModTime().UnixNano(), 36) + "-" + strconv.FormatInt(fi.Size(), 36))
}

func (f folder) version(name string) (Version, error) {
	fi, err := os.Stat(f.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return None, nil
	}
	if err != nil {
		return None, err
	}
	return versionOf(fi), nil
}

// Write compares and then writes: in a folder it is the lock that keeps others away.
func (f folder) Write(_ context.Context, name string, data []byte, replaces Version) (Version, error) {
	if len(data) > MaxDocument {
		return None, fmt.Errorf("%s: more than %d bytes", name, MaxDocument)
	}
	have, err := f.version(name)
	if err != nil {
		return None, err
	}
	if replaces != Any && have != replaces {
		return None, &ChangedError{Name: name}
	}
	if err := durable.MkdirAll(filepath.Dir(f.path(name)), 0o755); err != nil {
		return None, err
	}
	if err := durable.WriteFile(f.path(name), data, 0o644); err != nil {
		return None, err
	}
	return f.version(name)
}

func (f folder) Remove(_ context.Context, name string) error {
	err := os.Remove(f.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(f.path(name)))
}

func (f folder) List(_ context.Context, sub string) ([]string, error) {
	entries, err := os.ReadDir(f.path(sub))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && !strings.HasPrefix(e.Name(), ".") { // what a crash left of a document
			names = append(names, path.Join(sub, e.Name()))
		}
	}
	slices.Sort(names)
	return names, nil
}

// Lock holds a file; closing it releases the lock, as the death of the process does.
func (f folder) Lock(ctx context.Context, waiting func()) (Lock, error) {
	file, err := os.OpenFile(f.path(lockFile), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := durable.Lock(ctx, file, waiting); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return folderLock{file}, nil
}

type folderLock struct{ file *os.File }

func (folderLock) Held() error { return nil }

func (l folderLock) Unlock() error { return l.file.Close() }
