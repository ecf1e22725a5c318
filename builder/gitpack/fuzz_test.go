package gitpack

import (
	"bytes"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/bundle"
)

func FuzzParseTree(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := parseTree(data)
		if err != nil {
			return
		}
		var again bytes.Buffer
		for _, e := range entries {
			again.WriteString(e.mode + " " + e.name + "\x00" + string(e.id[:]))
		}
		if !bytes.Equal(again.Bytes(), data) {
			t.Errorf("%q was read as %v", data, entries)
		}
	})
}

// FuzzListing: whatever a source lists, what is chosen from it are refs and object ids that a lock may name.
func FuzzListing(f *testing.F) {
	f.Fuzz(func(t *testing.T, text, pattern string) {
		if len(text) > 10_000 || len(pattern) > 100 {
			return
		}
		l := &listing{oids: make(map[string]string)}
		for line := range strings.SplitSeq(text, "\n") {
			if l.add("source", line) != nil {
				return
			}
		}
		p := &packer{o: Options{Refs: []string{pattern}}}
		names, err := p.choose(l)
		if err != nil {
			return
		}
		head, err := p.chooseHead(l, names)
		if err != nil || bundle.CheckGitRef(head) != nil {
			t.Errorf("HEAD %q, %v", head, err)
		}
		for _, name := range names {
			if bundle.CheckGitRef(name) != nil || !sha1Pattern.MatchString(l.oids[name]) || !Match(pattern, name) {
				t.Errorf("ref %q at %q", name, l.oids[name])
			}
		}
	})
}

func FuzzAttributes(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		got, err := hasLFSFilter(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if got && !strings.Contains(text, "filter=lfs") {
			t.Errorf("%q", text)
		}
	})
}
