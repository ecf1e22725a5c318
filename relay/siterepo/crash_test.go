package siterepo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// childVariable makes this test binary a server that the crash tests kill: its value is the folder of the job.
const childVariable = "SITEREPO_TEST_CHILD"

func TestMain(m *testing.M) {
	if job := os.Getenv(childVariable); job != "" {
		fmt.Println("error:", serveJob(job, os.Stdout, os.Stdin))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// serveJob serves a set. At each point it says so and waits for a line. What Pushed is told goes to a file.
func serveJob(job string, out io.Writer, in io.Reader) error {
	told, err := os.OpenFile(filepath.Join(job, "told"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	o := Options{Pushed: func(p Push) error {
		_, err := fmt.Fprintln(told, p.Seq, p.Who)
		return err
	}}
	if _, err := os.Stat(filepath.Join(job, "git")); err == nil {
		o.Git = filepath.Join(job, "git")
	}
	set, err := Open(filepath.Join(job, "site"), o)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "http://"+l.Addr().String()+"/site/"+DefaultName)
	answers := bufio.NewReader(in)
	set.at = func(point string) {
		fmt.Fprintln(out, point)
		_, _ = answers.ReadString('\n') // at the end of the input it goes on
	}
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { set.Serve(w, r, identify(r)) }))
}

type child struct {
	cmd    *exec.Cmd
	url    string
	points chan string
	in     io.WriteCloser
}

func startChild(t *testing.T, job string, stepped bool) *child {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: exec.Command(exe), points: make(chan string, 100)}
	c.cmd.Env = append(os.Environ(), childVariable+"="+job)
	c.cmd.Stderr = os.Stderr
	if stepped {
		if c.in, err = c.cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.points)
		for s := bufio.NewScanner(out); s.Scan(); {
			c.points <- s.Text()
		}
	}()
	t.Cleanup(func() { _ = c.cmd.Process.Kill() })
	if c.url = <-c.points; !strings.HasPrefix(c.url, "http://") {
		t.Fatal(c.url)
	}
	return c
}

// end kills the child and waits for it.
func (c *child) end() {
	_ = c.cmd.Process.Kill()
	for range c.points { //nolint:revive // drained, so that Wait finds no open reader
	}
	_ = c.cmd.Wait()
}

// crash is a job with one push in it, and a second one to do.
type crash struct {
	sb        *sandbox
	job       string
	clone     string
	old, next string
}

func newCrash(t *testing.T) *crash {
	t.Helper()
	c := &crash{sb: newSandbox(t), job: t.TempDir()}
	child := startChild(t, c.job, false)
	c.clone = c.sb.clone(child.url, "alice")
	c.old = c.sb.Commit(c.clone, "a", "1")
	c.sb.Git(c.clone, "push", "--quiet", "origin", "main")
	child.end()
	c.next = c.sb.Commit(c.clone, "a", "2")
	return c
}

// copy gives a job of its own with the same state.
func (c *crash) copy(t *testing.T) *crash {
	t.Helper()
	d := *c
	d.job, d.clone = filepath.Join(t.TempDir(), "job"), filepath.Join(t.TempDir(), "clone")
	for from, to := range map[string]string{c.job: d.job, c.clone: d.clone} {
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	return &d
}

// push pushes to a child in the background.
func (c *crash) push(url string) (result <-chan error) {
	ch := make(chan error, 1)
	go func() {
		_, err := c.sb.Try(c.clone, "push", "--quiet", url, "main", "main:line-2")
		ch <- err
	}()
	return ch
}

// check opens what a crash left: each ref is old or new, the history says so, everything in it was told, and pushing goes
// on. acknowledged says that the client was told of success.
func (c *crash) check(t *testing.T, acknowledged bool) (main string) {
	t.Helper()
	told := c.told(t)
	s := openSite(t, filepath.Join(c.job, "site"), Options{})
	defer s.server.Close()
	if err := s.CatchUp(context.Background()); err != nil { // waits for a git that is left over
		t.Fatal(err)
	}
	s.sound(c.sb)
	main = c.sb.Git(s.repo(), "rev-parse", "refs/heads/main")
	if main != c.next && (main != c.old || acknowledged) {
		t.Errorf("main is %s, acknowledged: %v", main, acknowledged)
	}
	for _, p := range s.told {
		told[p.Seq] = p.Who
	}
	log := checkHistory(c.sb, s.Set)
	for _, p := range log {
		if p.Who != "alice" || told[p.Seq] != "alice" {
			t.Errorf("%+v, told to %q", p, told[p.Seq])
		}
	}
	if len(told) != len(log) {
		t.Errorf("told %v, the history is %v", told, log)
	}
	c.sb.Git(c.clone, "push", "--quiet", s.url(), "main", "main:line-2")
	s.sound(c.sb)
	left, err := filepath.Glob(filepath.Join(s.repo(), "objects", "tmp_*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	return main
}

// told reads what the child's Pushed was told.
func (c *crash) told(t *testing.T) map[uint64]string {
	data, err := os.ReadFile(filepath.Join(c.job, "told"))
	if err != nil {
		t.Fatal(err)
	}
	told := make(map[uint64]string)
	for line := range strings.Lines(string(data)) {
		var seq uint64
		var who string
		if _, err := fmt.Sscan(line, &seq, &who); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		told[seq] = who
	}
	return told
}

// TestKillAtEachPoint stops a server with SIGKILL at each point that a push passes.
func TestKillAtEachPoint(t *testing.T) {
	t.Parallel()
	points := strings.Fields("received locked started pushed synced recorded told told")
	first := newCrash(t)
	for stop, point := range append(points, "answered") {
		t.Run(fmt.Sprint(stop, point), func(t *testing.T) {
			t.Parallel()
			c := first.copy(t)
			child := startChild(t, c.job, true)
			result := c.push(child.url)
			for i := 0; i <= stop && i < len(points); i++ {
				if got := <-child.points; got != points[i] {
					t.Errorf("point %d is %s, want %s", i, got, points[i])
				}
				if i < stop {
					if _, err := io.WriteString(child.in, "\n"); err != nil {
						t.Error(err)
					}
				}
			}
			var err error
			if point == "answered" {
				err = <-result
				child.end()
			} else {
				child.end()
				err = <-result
			}
			if (err == nil) != (point == "answered") {
				t.Errorf("the push says %v", err)
			}
			after := stop >= 3
			if main := c.check(t, err == nil); (main == c.next) != after {
				t.Errorf("the push is done: %v", main == c.next)
			}
		})
	}
}

// TestKillAnywhere stops a server at random moments of a push.
func TestKillAnywhere(t *testing.T) {
	t.Parallel()
	c := newCrash(t)
	child := startChild(t, c.job, false)
	start := time.Now()
	if err := <-c.push(child.url); err != nil {
		t.Fatal(err)
	}
	whole := time.Since(start)
	child.end()
	for range 4 {
		c.old, c.next = c.next, c.sb.Commit(c.clone, "a", noise(100))
		after := time.Duration(rand.Int64N(int64(whole)))
		child := startChild(t, c.job, false)
		timer := time.AfterFunc(after, func() { _ = child.cmd.Process.Kill() })
		err := <-c.push(child.url)
		timer.Stop()
		child.end()
		c.check(t, err == nil)
		// The push that check did is told to nobody but check.
		appendTold(t, c)
		if t.Failed() {
			t.Fatalf("killed after %v of %v", after, whole)
		}
	}
}

// appendTold notes everything as told.
func appendTold(t *testing.T, c *crash) {
	t.Helper()
	set, err := Open(filepath.Join(c.job, "site"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, p := range checkHistory(c.sb, set) {
		fmt.Fprintln(&all, p.Seq, p.Who)
	}
	c.sb.Write(c.job, "told", all.String())
}

// TestGitOutlivesItsServer kills a server whose git then does the push: the next Open neither waits for that git nor takes
// its locks away, and the history gets the push, with the operator's name, when git is done.
func TestGitOutlivesItsServer(t *testing.T) {
	t.Parallel()
	c := newCrash(t)
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	c.sb.Write(c.job, "git", `#!/bin/sh
case "$*" in
*--advertise-refs*) ;;
receive-pack*)
	cat > '`+c.job+`/request'
	echo begun > '`+c.job+`/begun'
	read line < '`+c.job+`/go'
	exec '`+git+`' "$@" < '`+c.job+`/request' ;;
esac
exec '`+git+`' "$@"
`)
	if err := os.Chmod(filepath.Join(c.job, "git"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"begun", "go"} {
		if out, err := exec.Command("mkfifo", filepath.Join(c.job, name)).CombinedOutput(); err != nil {
			t.Skipf("mkfifo: %v: %s", err, out)
		}
	}
	child := startChild(t, c.job, false)
	result := c.push(child.url)
	if _, err := os.ReadFile(filepath.Join(c.job, "begun")); err != nil { // until git runs
		t.Fatal(err)
	}
	child.end()
	if err := <-result; err == nil {
		t.Error("the push was acknowledged")
	}
	s := openSite(t, filepath.Join(c.job, "site"), Options{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.CatchUp(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("git is running, and CatchUp says %v", err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		if err := os.WriteFile(filepath.Join(c.job, "go"), []byte("\n"), 0o644); err != nil {
			t.Error(err)
		}
	})
	done.Wait()
	if err := s.CatchUp(context.Background()); err != nil {
		t.Error(err)
	}
	log := checkHistory(c.sb, s.Set)
	if len(log) != 3 || log[2].Who != "alice" || fmt.Sprint(s.told) != fmt.Sprint(log[1:]) {
		t.Errorf("history %+v, told %+v", log, s.told)
	}
	s.server.Close()
	appendTold(t, c)
	if main := c.check(t, false); main != c.next {
		t.Errorf("main is %s", main)
	}
}

// TestOpenSweeps: what a killed git leaves behind would refuse every later push.
func TestOpenSweeps(t *testing.T) {
	t.Parallel()
	sb := newSandbox(t)
	dir := filepath.Join(t.TempDir(), "odd[name]*", "site")
	s := openSite(t, dir, Options{})
	clone := sb.clone(s.url(), "alice")
	sb.Commit(clone, "a", "1")
	sb.Git(clone, "push", "--quiet", "origin", "main")
	names := []string{"HEAD.lock", "packed-refs.lock", "refs/heads/main.lock", "refs/heads/x/y.lock", "objects/tmp_objdir-incoming-x/aa/b",
		"objects/pack/tmp_pack_x", "objects/pack/pack-x.keep", "objects/aa/tmp_obj_x", "shallow_x"}
	for _, name := range names {
		sb.Write(s.repo(), name, "x")
	}
	sb.Commit(clone, "a", "2")
	s = openSite(t, dir, Options{})
	for _, name := range names {
		if _, err := os.Lstat(filepath.Join(s.repo(), name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
	sb.Git(clone, "push", "--quiet", s.url(), "main")
	s.sound(sb)
}
