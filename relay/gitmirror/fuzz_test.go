package gitmirror

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

// FuzzPackHeader: what is accepted is a pack of version 2 whose objects fit into it.
func FuzzPackHeader(f *testing.F) {
	f.Fuzz(func(t *testing.T, head []byte, size int64) {
		if checkPackHeader(head, size) != nil {
			return
		}
		if !bytes.HasPrefix(head, []byte("PACK\x00\x00\x00\x02")) || size < packHeaderSize+packTrailerSize {
			t.Fatalf("pack header %q in %d bytes", head, size)
		}
		if count := int64(binary.BigEndian.Uint32(head[8:])); count > size/minPackedObject {
			t.Errorf("%d objects in %d bytes", count, size)
		}
	})
}

func TestPackHeader(t *testing.T) {
	head := func(count byte) []byte { return []byte{'P', 'A', 'C', 'K', 0, 0, 0, 2, 0, 0, 0, count} }
	for _, tc := range []struct {
		head []byte
		size int64
		ok   bool
	}{
		{head(0), 32, true}, {head(1), 41, true}, {head(2), 49, false}, {head(2), 50, true}, {head(0), 31, false},
		{[]byte{'P', 'A', 'C', 'K', 0, 0, 0, 2, 255, 255, 255, 255}, 1 << 30, false},
		{[]byte{'P', 'A', 'C', 'K', 0, 0, 0, 3, 0, 0, 0, 0}, 32, false}, {head(0)[:11], 32, false}, {nil, 0, false},
	} {
		if err := checkPackHeader(tc.head, tc.size); (err == nil) != tc.ok {
			t.Errorf("%q in %d bytes: %v", tc.head, tc.size, err)
		}
	}
}

// FuzzRoute: whatever a client sends as host and path, it reaches a repository only by that repository's own name.
func FuzzRoute(f *testing.F) {
	g := routes(f, "github.com/acme/robot", "git.local:3000/a/b")
	f.Fuzz(func(t *testing.T, host, path string) {
		repo, _, ok := g.route(host, path)
		if !ok {
			return
		}
		rest, found := strings.CutPrefix(repo.Path, "github.com/")
		if !found {
			rest = strings.TrimPrefix(repo.Path, "git.local:3000/")
		}
		if !strings.HasPrefix(path, "/") || !strings.Contains(path, rest) && !strings.Contains(host+path, rest) {
			t.Errorf("host %q, path %q lead to %s", host, path, repo.Path)
		}
		if strings.Contains(path, "..") || strings.Contains(path, "\x00") {
			t.Errorf("host %q, path %q lead to %s", host, path, repo.Path)
		}
	})
}
