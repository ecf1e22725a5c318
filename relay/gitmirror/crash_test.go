package gitmirror

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// childVariable makes this test binary an importer that the crash tests kill: its value is the folder of the job.
const childVariable = "GITMIRROR_TEST_CHILD"

func TestMain(m *testing.M) {
	if job := os.Getenv(childVariable); job != "" {
		if err := importJob(job, os.Stdout, os.Stdin); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// importJob admits the layers of a job and prepares a generation. At each point it says so and waits for a line.
func importJob(job string, out io.Writer, in io.Reader) error {
	data, err := os.ReadFile(filepath.Join(job, "git.json"))
	if err != nil {
		return err
	}
	var g bundle.Git
	if err := strictjson.Unmarshal(data, &g); err != nil {
		return err
	}
	fmt.Fprintln(out, "open")
	m, err := Open(filepath.Join(job, "git"), Options{})
	if err != nil {
		return err
	}
	answers := bufio.NewReader(in)
	m.at = func(point string) {
		fmt.Fprintln(out, point)
		_, _ = answers.ReadString('\n') // at the end of the input it goes on
	}
	var layers []Layer
	for _, name := range []string{"1", "2"} {
		layers = append(layers, Layer{Name: name, Open: func() (io.ReadCloser, error) { return os.Open(filepath.Join(job, name)) }})
	}
	if err := m.Admit(context.Background(), place, g, layers); err != nil {
		return err
	}
	if _, err := m.Prepare(context.Background(), 1, []Repository{{Path: place, Git: g}}); err != nil {
		return err
	}
	fmt.Fprintln(out, "done")
	return nil
}

// newJob writes a job whose state needs two layers.
func newJob(t *testing.T, s *sandbox) func() (job string, g bundle.Git) {
	t.Helper()
	source := s.source()
	first := s.layer(source)
	base := s.Git(source, "rev-parse", "main")
	s.Commit(source, "robot-values/robot-002.yaml", "ssid: line-2\n")
	g, second := s.state(source), s.layer(source, "main", "^"+base)
	data, err := strictjson.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	return func() (string, bundle.Git) {
		job := t.TempDir()
		s.Write(job, "git.json", string(data))
		s.Write(job, "1", string(first))
		s.Write(job, "2", string(second))
		return job, g
	}
}

type child struct {
	cmd    *exec.Cmd
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
	return c
}

// end kills the child and waits for it.
func (c *child) end() {
	_ = c.cmd.Process.Kill()
	for range c.points { //nolint:revive // drained, so that Wait finds no open reader
	}
	_ = c.cmd.Wait()
}

// checkAfterCrash: what is in the store is sound and complete, and a repeated import completes.
func checkAfterCrash(t *testing.T, s *sandbox, job string, g bundle.Git) {
	t.Helper()
	m := open(t, filepath.Join(job, "git"), Options{})
	packs, err := os.ReadDir(m.packDir())
	if err != nil {
		t.Fatal(err)
	}
	if len(packs)%2 != 0 {
		t.Errorf("the store has %d files after Open: a pack without its index", len(packs))
	}
	s.Git(m.path(storeName), "fsck", "--full", "--strict")
	if gens, err := filepath.Glob(m.path("gen-*")); err != nil || len(gens) > 0 {
		if same, err := m.onDisk(mustGeneration(t, 1, g)); !same {
			t.Errorf("a generation was left half-written, %v", err)
		}
	}
	if err := importJob(job, io.Discard, strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	s.Git(m.path(storeName), "fsck", "--full", "--strict")
	gen := filepath.Join(m.generationDir(1), place+".git")
	s.Git(gen, "rev-list", "--objects", "--quiet", "--all")
	if got := s.Git(gen, "rev-parse", "main"); got != g.Refs[1].OID {
		t.Errorf("main is %s", got)
	}
	if len(stored(t, m)) == 0 {
		t.Error("the store is empty")
	}
}

// TestKillAtEachPoint stops an importer with SIGKILL at each point it passes, between a pack and its index for one.
func TestKillAtEachPoint(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	job := newJob(t, s)
	var all []string
	folder, _ := job()
	full := startChild(t, folder, false)
	for point := range full.points {
		all = append(all, point)
	}
	if err := full.cmd.Wait(); err != nil {
		t.Fatalf("%v: %v", err, all)
	}
	want := "open indexed indexed checked linked.pack linked.idx linked.pack linked.idx generation written done"
	if got := strings.Join(all, " "); got != want {
		t.Fatalf("points are %s", got)
	}
	for stop := 1; stop < len(all)-1; stop++ { // "open" and "done" do not wait
		t.Run(fmt.Sprintf("%d %s", stop, all[stop]), func(t *testing.T) {
			folder, g := job()
			c := startChild(t, folder, true)
			for i := 0; i < stop; i++ {
				if point := <-c.points; point != all[i] {
					t.Errorf("point %d is %s", i, point)
				}
				if i > 0 {
					if _, err := io.WriteString(c.in, "\n"); err != nil {
						t.Error(err)
					}
				}
			}
			if point := <-c.points; point != all[stop] {
				t.Errorf("stopped at %s", point)
			}
			c.end()
			checkAfterCrash(t, s, folder, g)
		})
	}
}

// TestKillAnywhere stops an importer at random moments of its run.
func TestKillAnywhere(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	job := newJob(t, s)
	folder, _ := job()
	start := time.Now()
	c := startChild(t, folder, false)
	for range c.points { //nolint:revive // until it is done
	}
	if err := c.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	whole := time.Since(start)
	for range 8 {
		folder, g := job()
		after := time.Duration(rand.Int64N(int64(whole)))
		c := startChild(t, folder, false)
		timer := time.AfterFunc(after, func() { _ = c.cmd.Process.Kill() })
		for range c.points { //nolint:revive // until it is done or dead
		}
		timer.Stop()
		_ = c.cmd.Wait()
		checkAfterCrash(t, s, folder, g)
		if t.Failed() {
			t.Fatalf("killed after %v of %v", after, whole)
		}
	}
}
