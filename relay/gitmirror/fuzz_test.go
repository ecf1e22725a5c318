package gitmirror

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/bundle"
)

// FuzzHeader: what is accepted is in bounds, names only what a lock may name, and leaves the reader at the pack.
func FuzzHeader(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		br := newHeaderReader(bytes.NewReader(data))
		h, err := readHeader(br)
		if err != nil {
			return
		}
		rest, err := io.ReadAll(br)
		if err != nil {
			t.Fatal(err)
		}
		head := data[:len(data)-len(rest)]
		if !bytes.HasSuffix(head, []byte("\n\n")) || bytes.Contains(head[:len(head)-1], []byte("\n\n")) {
			t.Errorf("the header ends at %q", head)
		}
		if len(h.refs) == 0 || len(h.refs) > maxHeaderRefs || len(h.prerequisites) > maxPrerequisites {
			t.Errorf("%d refs, %d prerequisites", len(h.refs), len(h.prerequisites))
		}
		lines := strings.Count(string(head), "\n")
		if want := 2 + strings.Count(string(head), "\n@") + len(h.prerequisites) + len(h.refs); lines != want {
			t.Errorf("%d lines were read as %d", lines, want)
		}
		for _, ref := range h.refs {
			if ref.name != "HEAD" && bundle.CheckGitRef(ref.name) != nil || !sha1Pattern.MatchString(ref.oid) {
				t.Errorf("ref %q %q", ref.oid, ref.name)
			}
		}
		if checkPackHeader(rest, int64(len(rest))) == nil && !bytes.HasPrefix(rest, []byte("PACK\x00\x00\x00\x02")) {
			t.Errorf("pack header %q", rest)
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
