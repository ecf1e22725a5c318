package integration

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdExits is `exits CODE COMMAND ARGS…`: the command must end with the code. Its output goes to the files out and err
// in the work folder, for grep.
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	ts.Logf("> %q", args[1:])
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	ts.Check(os.WriteFile(ts.MkAbs("out"), []byte(ts.ReadFile("stdout")), 0o644))
	ts.Check(os.WriteFile(ts.MkAbs("err"), []byte(ts.ReadFile("stderr")), 0o644))
	if got != want {
		ts.Fatalf("%s exits with %d, want %d\n%s%s", args[1], got, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

// cmdFlip is `flip DIR`: changes one bit of the largest blob of an OCI layout, whose path it puts into $BLOB.
func cmdFlip(ts *testscript.TestScript, neg bool, args []string) {
	dir := filepath.Join(ts.MkAbs(args[0]), "blobs", "sha256")
	entries, err := os.ReadDir(dir)
	ts.Check(err)
	var path string
	var size int64
	for _, e := range entries {
		info, err := e.Info()
		ts.Check(err)
		if info.Size() > size {
			path, size = filepath.Join(dir, e.Name()), info.Size()
		}
	}
	data, err := os.ReadFile(path)
	ts.Check(err)
	data[len(data)/2] ^= 4
	ts.Check(os.WriteFile(path, data, 0o644))
	ts.Setenv("BLOB", path)
}
