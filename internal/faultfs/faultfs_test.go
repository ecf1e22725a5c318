//go:build linux

package faultfs

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// mount mounts a layer, or skips the test where that is not allowed.
func mount(t *testing.T) (l *Layer, below, mnt string) {
	t.Helper()
	below, mnt = t.TempDir(), t.TempDir()
	l, err := Mount(below, mnt)
	var unavailable *UnavailableError
	if errors.As(err, &unavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l, below, mnt
}

// shell runs commands in a folder of the mount, as a process of its own.
func shell(t *testing.T, dir, script string) (string, error) {
	t.Helper()
	cmd := exec.Command("sh", "-euc", `cd "$1"; `+script, "sh", dir)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

const gitWork = `
git init -q -b main r; cd r
i=0; while [ $i -lt 40 ]; do echo $i >> f; mkdir -p d$i; echo $i > d$i/g; git add -A; i=$((i+1)); done
git -c user.name=a -c user.email=a@b commit -q -m one
git repack -qad; git multi-pack-index write --bitmap; git fsck --strict; git log -p > ../log`

// Real programs work on the layer: git maps its packs into memory.
func TestPassesOn(t *testing.T) {
	l, below, mnt := mount(t)
	if err := os.Mkdir(filepath.Join(below, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := l.Begin("a", Options{Record: true}); err != nil {
		t.Fatal(err)
	}
	if out, err := shell(t, filepath.Join(mnt, "a"), gitWork); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := shell(t, mnt, "! ls -l /proc/self/fd | grep /dev/fuse"); err != nil {
		t.Errorf("a program has the connection of the mount: %s", out)
	}
	if out, err := shell(t, mnt, "! mkdir b; ! touch x"); err != nil {
		t.Errorf("changes outside of the trial: %v\n%s", err, out)
	}
	got := l.End()
	if got.Changes < len(got.Log.Entries) || len(got.Log.Entries) < 100 { // git tries some that cannot be done
		t.Errorf("%d changes, %d of them in the log", got.Changes, len(got.Log.Entries))
	}
	if out, err := shell(t, filepath.Join(below, "a", "r"), "git fsck --strict"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	// A disk that was synced to the end has everything: all is kept by one seed in sixteen.
	for seed := uint64(0); ; seed++ {
		dst := filepath.Join(t.TempDir(), "disk")
		if err := got.Log.PowerCut(dst, len(got.Log.Entries), seed); err != nil {
			t.Fatal(err)
		}
		if out, err := shell(t, dst, "diff -r "+filepath.Join(below, "a")+" ."); err == nil {
			break
		} else if seed == 200 {
			t.Fatalf("no disk has everything: %s", out)
		}
	}
}

// Each kind of fault does what its name says, and what is counted is the same each time.
func TestKinds(t *testing.T) {
	const script = `printf 0123456789 > f; ln f h; mv f g; chmod 600 g; mkdir d; rmdir d; ln -s g s; rm s; sync g; sync .; echo "" >> g; truncate -s 3 g`
	ops := []Op{Create, Write, Link, Rename, Chmod, Mkdir, Rmdir, Symlink, Unlink, Sync, SyncDir, Write, Truncate}
	l, below, mnt := mount(t)
	number := 0
	run := func(o Options) (Outcome, string, error) {
		t.Helper()
		number++
		sub := "t" + strings.Repeat("i", number)
		if err := os.Mkdir(filepath.Join(below, sub), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := l.Begin(sub, o); err != nil {
			t.Fatal(err)
		}
		_, err := shell(t, filepath.Join(mnt, sub), script)
		return l.End(), filepath.Join(below, sub), err
	}
	out, dir, err := run(Options{Record: true})
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range out.Log.Entries {
		if i >= len(ops) || e.Op != ops[i] {
			t.Errorf("change %d is %s %s", i, e.Op, e.Path)
		}
	}
	if data, err := os.ReadFile(filepath.Join(dir, "g")); err != nil || string(data) != "012" {
		t.Errorf("%q, %v", data, err)
	}
	there := func(dir, name string) bool {
		_, err := os.Lstat(filepath.Join(dir, name))
		return err == nil
	}
	for _, tc := range []struct {
		o     Options
		check func(dir string, out Outcome) bool
	}{
		{Options{At: 1, Kind: Refuse}, func(dir string, out Outcome) bool { return !there(dir, "f") && out.Struck == "create f" }},
		{Options{At: 1, Kind: Lie}, func(dir string, _ Outcome) bool { return there(dir, "f") }},
		{Options{At: 4, Kind: Refuse, Err: syscall.EROFS}, func(dir string, _ Outcome) bool { return there(dir, "f") && !there(dir, "g") }},
		{Options{At: 4, Kind: Lie}, func(dir string, _ Outcome) bool { return there(dir, "g") && !there(dir, "d") }},
		{Options{At: 10, Kind: Lie}, func(dir string, _ Outcome) bool { return there(dir, "g") && !there(dir, "s") }},
		{Options{At: 2, Kind: Short}, func(dir string, _ Outcome) bool {
			data, err := os.ReadFile(filepath.Join(dir, "f"))
			return err == nil && string(data) == "01234"
		}},
		{Options{At: 5, Kind: Full}, func(dir string, out Outcome) bool {
			return there(dir, "g") && !there(dir, "d") && out.Struck == "chmod g"
		}},
		{Options{At: 3, Kind: Dead}, func(dir string, _ Outcome) bool { return there(dir, "f") && !there(dir, "h") }},
	} {
		out, dir, err := run(tc.o)
		if err == nil || !tc.check(dir, out) {
			t.Errorf("%+v: %v, struck %q", tc.o, err, out.Struck)
		}
	}
	if out, _, err := run(Options{At: 99, Kind: Refuse}); err != nil || out.Struck != "" {
		t.Errorf("a fault that is never reached: %v, %+v", err, out)
	}
	killed := false
	out, dir, err = run(Options{At: 6, Kind: Kill, Kill: func() { killed = true }})
	if err == nil || !killed || out.Changes != 6 || !there(dir, "d") || there(dir, "s") {
		t.Errorf("kill: %v, %v, %+v", err, killed, out)
	}
}

// A disk keeps what was synced, whatever the seed; and of what was not, each loss is made by some seed.
func TestPowerCut(t *testing.T) {
	l, below, mnt := mount(t)
	if err := os.MkdirAll(filepath.Join(below, "a", "old"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(below, "a", "old", "kept"), []byte("kept"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := l.Begin("a", Options{Record: true}); err != nil {
		t.Fatal(err)
	}
	out, err := shell(t, filepath.Join(mnt, "a"), `
		printf durable > tmp; sync tmp; mv tmp durable; sync .
		head -c 9000 /dev/zero | tr '\0' x > big
		printf new > tmp2; mv tmp2 renamed
		mkdir sub; printf 1 > sub/one; sync sub/one; sync sub; printf 2 > sub/two
		mv old/kept sub/moved`)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	log := l.End().Log
	seen := make(map[string]bool)
	read := func(dir, name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return "absent"
		}
		return string(data)
	}
	for seed := range uint64(400) {
		dst := filepath.Join(t.TempDir(), "disk")
		if err := log.PowerCut(dst, len(log.Entries), seed); err != nil {
			t.Fatal(err)
		}
		if got := read(dst, "durable"); got != "durable" {
			t.Fatalf("seed %d: what was synced is %q", seed, got)
		}
		if old, moved := read(dst, "old/kept"), read(dst, "sub/moved"); old == moved {
			if _, err := os.Stat(filepath.Join(dst, "sub")); err == nil || old != "absent" {
				t.Fatalf("seed %d: a rename is half done: %q and %q", seed, old, moved)
			}
			seen["moved into a folder that was lost"] = true
		}
		switch got := read(dst, "renamed"); got {
		case "":
			seen["renamed and empty"] = true
		case "absent":
			seen["rename lost"] = true
		case "new":
			seen["rename kept"] = true
		}
		if data := read(dst, "big"); data != "absent" {
			switch {
			case data == "":
				seen["big is empty"] = true
			case len(data) < 9000:
				seen["big is short"] = true
			case strings.Contains(data, "\x00"):
				seen["big has holes"] = true
			default:
				seen["big is whole"] = true
			}
		}
		if _, err := os.Stat(filepath.Join(dst, "sub")); err != nil {
			seen["sub is lost"] = true
		} else if read(dst, "sub/one") != "1" {
			t.Fatalf("seed %d: sub is there, and what was synced in it is %q", seed, read(dst, "sub/one"))
		} else if read(dst, "sub/two") == "absent" {
			seen["two is lost"] = true
		}
		again := filepath.Join(t.TempDir(), "again")
		if err := log.PowerCut(again, len(log.Entries), seed); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("diff", "-r", dst, again).CombinedOutput(); err != nil {
			t.Fatalf("one seed makes two disks: %s", out)
		}
	}
	for _, want := range []string{
		"renamed and empty", "rename lost", "rename kept", "big is empty", "big is short", "big has holes", "big is whole",
		"sub is lost", "two is lost", "moved into a folder that was lost",
	} {
		if !seen[want] {
			t.Errorf("no seed made this: %s", want)
		}
	}
	// Before anything happened there is only what there was.
	dst := filepath.Join(t.TempDir(), "disk")
	if err := log.PowerCut(dst, 0, 1); err != nil {
		t.Fatal(err)
	}
	if got := read(dst, "old/kept"); got != "kept" {
		t.Errorf("at the start: %q", got)
	}
	if fi, err := os.Stat(filepath.Join(dst, "old", "kept")); err != nil || fi.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", fi, err)
	}
}
