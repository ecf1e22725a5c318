package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/plimsoll/plimsoll/attest/allowlist"
	"github.com/plimsoll/plimsoll/internal/durable"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// readOwned reads a file that decides what is trusted: a regular one, that only its owner can write, and whose owner is
// root or who runs this. A symbolic link is refused, because who may change the folder that it leads to is not seen.
func readOwned(path string, limit int64) ([]byte, error) {
	return read(path, limit, syscall.O_NOFOLLOW, func(info fs.FileInfo) error {
		if mode := info.Mode().Perm(); mode&0o022 != 0 {
			return fmt.Errorf("others than its owner can write it (mode %04o)", mode)
		}
		if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Uid != 0 && int(s.Uid) != os.Geteuid() {
			return fmt.Errorf("it is owned by user %d", s.Uid)
		}
		return nil
	})
}

// readSigned reads a file that proves itself.
func readSigned(path string, limit int64) ([]byte, error) {
	return read(path, limit, 0, func(fs.FileInfo) error { return nil })
}

func read(path string, limit int64, flags int, allowed func(fs.FileInfo) error) ([]byte, error) {
	// To open a pipe that nobody writes to would take for ever.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|flags, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errors.New("it is a symbolic link")}
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	bad := func(err error) ([]byte, error) { return nil, &fs.PathError{Op: "read", Path: path, Err: err} }
	switch {
	case !info.Mode().IsRegular():
		return bad(errors.New("it is no regular file"))
	case info.Size() > limit:
		return bad(fmt.Errorf("%d bytes, the limit is %d", info.Size(), limit))
	}
	if err := allowed(info); err != nil {
		return bad(err)
	}
	data := make([]byte, 0, info.Size()+1)
	for {
		n, err := f.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		switch {
		case errors.Is(err, io.EOF):
			return data, nil
		case err != nil:
			return nil, err
		case len(data) > int(info.Size()):
			return bad(errors.New("it grew while it was read")) // the list is replaced by a rename
		}
	}
}

// loadSeen reads what was seen before; nothing was if there is no file. A file that cannot be understood is no reason to
// forget.
func loadSeen(path string) (allowlist.Seen, error) {
	data, err := readOwned(path, allowlist.MaxSeen)
	if errors.Is(err, fs.ErrNotExist) {
		return allowlist.Seen{}, nil
	}
	if err != nil {
		return allowlist.Seen{}, fmt.Errorf("state: %w", err)
	}
	seen, err := allowlist.ParseSeen(data)
	if err != nil {
		return seen, fmt.Errorf("state %s: %w", path, err)
	}
	return seen, nil
}

// lockTime is how long a verifier waits for others that run at the same time.
const lockTime = 2 * time.Second

// remember writes that a list was seen. Of verifiers that run at once none lowers what another one raised.
func remember(path string, v *allowlist.Verified) (err error) {
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	lock, err := durable.OpenLock(path+".lock", 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	ctx, cancel := context.WithTimeout(context.Background(), lockTime)
	defer cancel()
	if err := durable.Lock(ctx, lock, nil); err != nil {
		return err
	}
	seen, err := loadSeen(path)
	if err != nil {
		return err
	}
	next, raised, err := seen.With(v)
	if err != nil || !raised {
		return err
	}
	data, err := next.Encode()
	if err != nil {
		return err
	}
	return durable.WriteFile(path, data, 0o644)
}

const (
	maxStdin = 1 << 20 // bytes: descriptors may carry data

	typeDescriptor = "application/vnd.oci.descriptor.v1+json"
	typeInput      = "application/vnd.containerd.image-verifier.input.v1+json" // from containerd's verify_on_run
)

// checkStdin reads what containerd says of the image, which must be the one of the arguments. The arguments decide: a
// type of input that is not known is refused, because it may mean that they do no longer.
func checkStdin(stdin io.Reader, asked request, limit time.Duration) error {
	if asked.mediaType != typeDescriptor && asked.mediaType != typeInput {
		return fmt.Errorf("standard input of type %.100q: this version knows %s and %s", asked.mediaType, typeDescriptor, typeInput)
	}
	type answer struct {
		data []byte
		err  error
	}
	done := make(chan answer, 1)
	go func() { // ends with the process
		data, err := io.ReadAll(io.LimitReader(stdin, maxStdin+1))
		done <- answer{data, err}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	var got answer
	select {
	case got = <-done:
	case <-timer.C:
		return fmt.Errorf("standard input: no end after %s", limit)
	}
	switch {
	case got.err != nil:
		return fmt.Errorf("standard input: %w", got.err)
	case len(got.data) > maxStdin:
		return fmt.Errorf("standard input: more than %d bytes", maxStdin)
	}
	if err := compareStdin(got.data, asked); err != nil {
		return fmt.Errorf("standard input: %w", err)
	}
	return nil
}

func compareStdin(data []byte, asked request) error {
	if err := strictjson.Check(data); err != nil {
		return err
	}
	var said struct {
		Digest     *string `json:"digest"`
		Descriptor *struct {
			Digest *string `json:"digest"`
		} `json:"descriptor"`
	}
	if err := json.Unmarshal(data, &said); err != nil {
		return err
	}
	d := said.Digest
	if asked.mediaType == typeInput {
		if said.Descriptor == nil {
			return nil // the arguments are all there is to go by
		}
		d = said.Descriptor.Digest
	}
	switch {
	case d == nil:
		return errors.New("a descriptor without a digest")
	case *d != asked.digest:
		return fmt.Errorf("it describes %.150q, the arguments say %.150q", *d, asked.digest)
	}
	return nil
}
