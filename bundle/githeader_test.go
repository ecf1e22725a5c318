package bundle

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// FuzzGitHeader: what is accepted is in bounds, names only what a lock may name, and leaves the reader at the pack.
func FuzzGitHeader(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		br := NewGitHeaderReader(bytes.NewReader(data))
		h, err := ReadGitHeader(br)
		if err != nil {
			var bad *GitHeaderError
			if !errors.As(err, &bad) {
				t.Errorf("the bytes are blamed on their reader: %v", err)
			}
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
		if len(h.Refs) == 0 || len(h.Refs) > MaxGitHeaderRefs || len(h.Prerequisites) > MaxGitPrerequisites {
			t.Errorf("%d refs, %d prerequisites", len(h.Refs), len(h.Prerequisites))
		}
		lines := strings.Count(string(head), "\n")
		if want := 2 + strings.Count(string(head), "\n@") + len(h.Prerequisites) + len(h.Refs); lines != want {
			t.Errorf("%d lines were read as %d", lines, want)
		}
		for _, ref := range h.Refs {
			if ref.Name != "HEAD" && CheckGitRef(ref.Name) != nil || !sha1Pattern.MatchString(ref.OID) || ref.Peeled != "" {
				t.Errorf("ref %v", ref)
			}
		}
	})
}

func TestGitHeaderLimits(t *testing.T) {
	oid := strings.Repeat("a", 40)
	start := "# v2 git bundle\n"
	for name, text := range map[string]string{
		"a long line":         start + "-" + oid + " " + strings.Repeat("x", MaxGitHeaderLine) + "\n",
		"prerequisites":       start + strings.Repeat("-"+oid+" \n", MaxGitPrerequisites+1),
		"a long header":       start + strings.Repeat("-"+oid+" "+strings.Repeat("x", MaxGitHeaderLine-100)+"\n", MaxGitHeader/(MaxGitHeaderLine-100)+1),
		"an option as a base": start + "---upload-pack=x \n" + oid + " refs/heads/main\n\n",
		"no end":              start + oid + " refs/heads/main\n",
	} {
		var bad *GitHeaderError
		if _, err := ReadGitHeader(NewGitHeaderReader(strings.NewReader(text))); !errors.As(err, &bad) {
			t.Errorf("%s: %v", name, err)
		}
	}
	broken := errors.New("the medium broke")
	r := io.MultiReader(strings.NewReader(start+oid+" refs/heads/main\n"), iotest.ErrReader(broken))
	if _, err := ReadGitHeader(NewGitHeaderReader(r)); !errors.Is(err, broken) {
		t.Errorf("a reader's error: %v", err)
	}
}
