package relay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/plimsoll/plimsoll/internal/durable"
	"github.com/plimsoll/plimsoll/internal/strictjson"
	"github.com/plimsoll/plimsoll/registry/store"
	"github.com/plimsoll/plimsoll/relay/state"
)

const (
	storageFile    = "storage.json"
	storageVersion = "plimsoll.storage.v1"
)

// storage says where the blobs of a data folder are, when they are not in the folder itself. It is written once: another
// place would have none of the blobs that active.json speaks of.
type storage struct {
	APIVersion string `json:"apiVersion"`
	URL        string `json:"url"` // as store.OpenURL takes it; it never holds credentials
}

// OtherStorageError says that a data folder has its blobs elsewhere than asked for.
type OtherStorageError struct{ Dir, Have, Wanted string }

func (e *OtherStorageError) Error() string {
	return fmt.Sprintf("data folder %s: its blobs are in %s, not in %s", e.Dir, e.Have, e.Wanted)
}

// openStore opens the store that a data folder has its blobs in, and remembers the one that is given first. Remote says
// that it is not on the disk of the folder. The documents that the relay decides by are with the blobs in a bucket, where
// other relays may share both, and else in the folder.
func openStore(ctx context.Context, dir string, o Options) (st *store.Store, docs state.Documents, remote bool, err error) {
	have, err := readStorage(dir)
	if err != nil {
		return nil, nil, false, err
	}
	blobs := filepath.Join(dir, "store")
	url := have.URL
	if o.Storage != "" && o.Storage != url {
		used, err := hasFiles(blobs)
		switch {
		case err != nil:
			return nil, nil, false, err
		case url != "":
			return nil, nil, false, &OtherStorageError{Dir: dir, Have: url, Wanted: o.Storage}
		case used:
			return nil, nil, false, &OtherStorageError{Dir: dir, Have: blobs, Wanted: o.Storage}
		}
		url = o.Storage
	}
	if st, err = store.OpenURL(ctx, url, store.Options{Dir: blobs, Redirect: o.Redirect}); err != nil {
		return nil, nil, false, err
	}
	docs = state.Dir(dir)
	if objects := st.Objects(); objects != nil {
		docs = state.Bucket(objects, state.BucketOptions{Dir: dir, Fenced: []string{activeFile}})
	}
	if url == have.URL {
		return st, docs, url != "", nil
	}
	if c, ok := docs.(state.Checker); ok { // before anything is put there
		if err := c.Check(ctx); err != nil {
			return nil, nil, false, err
		}
	}
	data, err := strictjson.Marshal(storage{APIVersion: storageVersion, URL: url})
	if err != nil {
		return nil, nil, false, err
	}
	return st, docs, true, durable.WriteFile(filepath.Join(dir, storageFile), data, 0o644)
}

// hasFiles reports whether anything but folders is below dir.
func hasFiles(dir string) (bool, error) {
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			return fs.ErrExist
		}
		return err
	})
	switch {
	case errors.Is(err, fs.ErrExist):
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	}
	return false, err
}

func readStorage(dir string) (storage, error) {
	var s storage
	data, err := os.ReadFile(filepath.Join(dir, storageFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	if err := strictjson.UnmarshalCanonical(data, &s); err != nil {
		return s, fmt.Errorf("%s: %w", storageFile, err)
	}
	if s.APIVersion != storageVersion {
		return s, fmt.Errorf("%s: apiVersion %q, this version reads %q", storageFile, s.APIVersion, storageVersion)
	}
	return s, nil
}
