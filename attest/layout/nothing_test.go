package layout_test

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	intoto "github.com/in-toto/in-toto-golang/in_toto"

	"github.com/plimsoll/plimsoll/attest/layout"
)

// silent runs fn and gives what it printed and what then lies in the working directory.
func silent(t *testing.T, fn func()) (printed string, files []os.DirEntry) {
	t.Helper()
	out := os.Stdout
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout = w
	done := make(chan string)
	go func() {
		data, _ := io.ReadAll(r)
		done <- string(data)
	}()
	fn()
	os.Stdout = out
	w.Close()
	if files, err = os.ReadDir("."); err != nil {
		t.Fatal(err)
	}
	return <-done, files
}

// No process is started, nothing is written and nothing is printed. The library alone does all three with the same
// layouts: else the test would show nothing.
func TestNothingHappens(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(w *world)
		want    layout.Reason // "" for a layout that is accepted
		noise   bool          // the library prints or runs something
	}{
		{"good", func(w *world) {}, "", false},
		{"an inspection that makes a file", func(w *world) {
			w.layout.Inspect = []intoto.Inspection{{Type: "inspection", Run: []string{"touch", "pwned"},
				SupplyChainItem: intoto.SupplyChainItem{Name: "look", ExpectedMaterials: [][]string{}, ExpectedProducts: [][]string{}}}}
		}, layout.HasInspections, true},
		{"another command", func(w *world) { w.layout.Steps[0].ExpectedCommand = []string{"make", "love"} }, "", true},
		{"a wrong pattern", func(w *world) {
			w.layout.Steps[0].ExpectedProducts = append([][]string{{"DISALLOW", "["}}, w.layout.Steps[0].ExpectedProducts...)
		}, layout.Malformed, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.layout.Expires = "2999-01-01T00:00:00Z" // the library asks the clock
			c.prepare(w)
			doc, folder := w.files(t)
			t.Chdir(t.TempDir())
			printed, files := silent(t, func() {
				if v, err := layout.Verify(t.Context(), doc, folder, w.opts); (c.want == "") != (err == nil) || err != nil && !refused(err, c.want) {
					t.Errorf("%v, %v", v, err)
				}
			})
			if printed != "" || len(files) != 0 {
				t.Errorf("printed %q, wrote %v", printed, files)
			}
			links := t.TempDir()
			for name, f := range folder {
				if err := os.WriteFile(filepath.Join(links, name), f.Data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			printed, files = silent(t, func() {
				if err := os.WriteFile(filepath.Join(links, "layout"), doc, 0o600); err != nil {
					t.Error(err)
				}
				m, err := intoto.LoadMetadata(filepath.Join(links, "layout"))
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := intoto.InTotoVerify(m, map[string]intoto.Key{w.owner.id(): w.owner.public()}, links, "", nil, nil, false); err != nil {
					t.Error(err) // so that what is tested stays what the library does
				}
			})
			if (printed != "" || len(files) != 0) != c.noise {
				t.Errorf("the library alone: printed %q, wrote %v", printed, files)
			}
		})
	}
}
