package media

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

// flaky gives n bytes of data at each opening and then err.
type flaky struct {
	data  []byte
	n     func(opening int) int
	err   error
	opens int
}

func (f *flaky) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return f.OpenAt(ctx, desc, 0)
}

func (f *flaky) OpenAt(_ context.Context, _ ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	f.opens++
	rest := f.data[offset:]
	if n := f.n(f.opens); n < len(rest) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(rest[:n]), iotest.ErrReader(f.err))), nil
	}
	return io.NopCloser(bytes.NewReader(rest)), nil
}

type hasty struct{}

func (hasty) Patience() time.Duration { return time.Second }

func TestResumeGivesUp(t *testing.T) {
	data := []byte("0123456789")
	desc := ocispec.Descriptor{MediaType: "a/b", Size: 10}
	broken := errors.New("reset by peer")
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		src := &flaky{data: data, err: broken, n: func(opening int) int { return map[bool]int{true: 3}[opening == 1] }}
		got, err := io.ReadAll(must(Resume(t.Context(), src, desc))(t))
		var gaveUp *GaveUpError
		if !errors.Is(err, broken) || !errors.As(err, &gaveUp) || gaveUp.After != DefaultPatience || string(got) != "012" {
			t.Errorf("%q, %v", got, err)
		}
		if waited := time.Since(start); waited != DefaultPatience {
			t.Errorf("waited %v", waited)
		}
		// At once, after 0.2, 0.4, 0.8, 1.6, 3.2 and then every 5 seconds, the last time at the end.
		if want := 1 + 1 + 5 + int((DefaultPatience-6200*time.Millisecond)/longestPause) + 1; src.opens != want {
			t.Errorf("%d openings, want %d", src.opens, want)
		}
	})
	synctest.Test(t, func(t *testing.T) { // as the fetcher says
		start := time.Now()
		src := &flaky{data: data, err: broken, n: func(int) int { return 0 }}
		if _, err := io.ReadAll(must(Resume(t.Context(), struct {
			*flaky
			hasty
		}{flaky: src}, desc))(t)); !errors.Is(err, broken) || time.Since(start) != (hasty{}).Patience() {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
	synctest.Test(t, func(t *testing.T) { // a byte each time is progress
		src := &flaky{data: data, err: io.EOF, n: func(int) int { return 1 }}
		if got := must(io.ReadAll(must(Resume(t.Context(), src, desc))(t)))(t); !bytes.Equal(got, data) || src.opens != 10 {
			t.Errorf("%q after %d openings", got, src.opens)
		}
	})
	synctest.Test(t, func(t *testing.T) { // who stops waiting is not kept
		ctx, cancel := context.WithCancel(t.Context())
		src := &flaky{data: data, err: broken, n: func(opening int) int {
			if opening == 3 {
				cancel()
			}
			return 0
		}}
		if _, err := io.ReadAll(must(Resume(ctx, src, desc))(t)); err == nil || src.opens != 3 {
			t.Errorf("%v after %d openings", err, src.opens)
		}
	})
	for _, err := range []error{&bundle.DamagedError{}, fs.ErrNotExist} {
		src := &flaky{data: data, err: err, n: func(int) int { return 2 }}
		if _, got := io.ReadAll(must(Resume(t.Context(), src, desc))(t)); !errors.Is(got, err) || src.opens != 1 {
			t.Errorf("%v after %d openings", got, src.opens)
		}
	}
}

func TestVerifyReader(t *testing.T) {
	blob := blobOf("0123456789")
	for name, r := range map[string]io.Reader{
		"whole": bytes.NewReader(blob.Data), "one byte": iotest.OneByteReader(bytes.NewReader(blob.Data)),
		"data with EOF": iotest.DataErrReader(bytes.NewReader(blob.Data)),
		"broken behind": io.MultiReader(bytes.NewReader(blob.Data), iotest.ErrReader(errors.New("late"))),
	} {
		v := NewVerifyReader(r, blob.Descriptor)
		if got, err := io.ReadAll(iotest.HalfReader(v)); err != nil || !bytes.Equal(got, blob.Data) || v.Err() != nil {
			t.Errorf("%s: %q, %v, %v", name, got, err, v.Err())
		}
	}
	for name, data := range map[string]string{"other": "012345678x", "long": "0123456789x", "short": "012345678", "none": ""} {
		v := NewVerifyReader(iotest.OneByteReader(bytes.NewReader([]byte(data))), blob.Descriptor)
		got, err := io.ReadAll(v)
		var damaged *bundle.DamagedError
		if !errors.As(err, &damaged) || len(got) == len(blob.Data) || v.Err() == nil {
			t.Errorf("%s: %q, %v: the last byte must not come out", name, got, err)
		}
		if _, again := v.Read(make([]byte, 1)); !errors.Is(again, err) {
			t.Errorf("%s: then %v", name, again)
		}
	}
	stuck := NewVerifyReader(io.MultiReader(bytes.NewReader(blob.Data), readerFunc(func([]byte) (int, error) { return 0, nil })), blob.Descriptor)
	if _, err := io.ReadAll(stuck); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("a reader that gives nothing: %v", err)
	}
}

func TestCopyBlobStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	blob := blobOf("0123456789")
	err := CopyBlob(ctx, io.Discard, readerFunc(func(p []byte) (int, error) {
		cancel()
		return copy(p[:1], "0"), nil
	}), blob.Descriptor)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := CopyBlob(t.Context(), io.Discard, bytes.NewReader(nil), ocispec.Descriptor{}); err == nil {
		t.Error("an empty descriptor")
	}
}
