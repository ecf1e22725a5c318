package store

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestStateReadsWhatItWrites(t *testing.T) {
	want := &state{
		Version: stateVersion, Digest: digest.FromString("x"), Size: 3 * minChunk, Chunk: minChunk,
		Parts: 2, Upload: "id/+=", ETags: "ab", Hash: []byte{1, 2, 3}, Tail: 5,
	}
	head, err := want.head()
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReaderSize(bytes.NewReader(append(head, "12345"...)), maxStateHead)
	got, err := readState(r)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := got.head(); err != nil || !bytes.Equal(again, head) || got.have() != 2*minChunk+5 {
		t.Errorf("%s, %v; want %s", again, err, head)
	}
	if tail, err := io.ReadAll(r); err != nil || string(tail) != "12345" {
		t.Errorf("tail %q, %v", tail, err)
	}
}

// FuzzReadState: a state that is taken is whole in itself and the only way to write it.
func FuzzReadState(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(data), maxStateHead)
		s, err := readState(r)
		if err != nil {
			var bad *stateError
			if !errors.As(err, &bad) {
				t.Fatalf("%#v; want *stateError", err)
			}
			return
		}
		head, err := s.head()
		if err != nil || !bytes.HasPrefix(data, head) {
			t.Fatalf("%s, %v", head, err)
		}
		if checkDigest(s.Digest) != nil || s.have() < 0 || s.have() > s.Size || s.Parts > maxParts || s.Tail > s.Chunk {
			t.Fatalf("%+v", s)
		}
	})
}
