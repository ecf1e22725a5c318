package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// twoRelays gives two sites whose relays have one bucket: two data folders, and a client name for each.
func twoRelays(t *testing.T, storage string) (a, b *site) {
	t.Helper()
	return bucketSite(t, "relay-a", storage), bucketSite(t, "relay-b", storage)
}

func bucketSite(t *testing.T, client, storage string) *site {
	t.Helper()
	s := newSite(t)
	own := *s.fixture
	own.env = asClient(s.env, client)
	s.fixture = &own
	s.start("--storage", storage)
	return s
}

// asClient gives processes the access key that a bucket knows them by.
func asClient(env []string, client string) []string {
	return append(append([]string{}, env...), "AWS_ACCESS_KEY_ID="+client, "AWS_SECRET_ACCESS_KEY=plimsoll-secret", "AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "NO_PROXY=127.0.0.1")
}

// as runs a command by another client name, so that the bucket tells it from the serving process.
func (s *site) as(client string, args ...string) command {
	cmd := s.command("plimsoll-relay", append(args, "--data", s.data)...)
	cmd.Env = asClient(s.env, client)
	return cmd
}

// What one relay is told, both serve; nobody has to know which one it was.
func TestTwoRelays(t *testing.T) {
	m := newMemoryBucket(t)
	a, b := twoRelays(t, m.storage())
	testTwoRelays(t, a, b)
}

func testTwoRelays(t *testing.T, a, b *site) {
	t.Helper()
	both := func(generation int) {
		t.Helper()
		start := time.Now()
		a.follow(generation)
		b.follow(generation)
		t.Logf("generation %d: both serve it after %s", generation, time.Since(start).Round(time.Millisecond))
	}
	a.must("import", a.bundle("v1.5.4"))
	both(1)
	first := a.pullAll("v1.5.4")
	if got := b.pullAll("v1.5.4"); got != first {
		t.Errorf("one relay serves %+v, the other %+v", first, got)
	}
	if _, err := os.Stat(filepath.Join(a.data, "active.json")); err == nil {
		t.Error("a relay with a bucket has an active.json of its own")
	}

	// The second one imports the next release, and has only what is new to copy.
	out := b.must("import", b.bundle("v1.5.5"))
	t.Log(strings.TrimSpace(out))
	both(2)
	second := a.pullAll("v1.5.5")
	if got := b.pullAll("v1.5.5"); got != second {
		t.Errorf("one relay serves %+v, the other %+v", second, got)
	}
	// What the one staged and accepted the other rolls back and pins.
	a.must("rollback")
	both(3)
	if got := b.pullAll("v1.5.4"); got != first {
		t.Errorf("after the roll-back %+v, want %+v", got, first)
	}
	b.must("activate", "robot-stack", "v1.5.5")
	both(4)
	a.must("pin", "robot-stack", "v1.5.4")
	if one, other := a.must("status", "--json"), b.must("status", "--json"); one != other {
		t.Errorf("status differs:\n%s\n%s", one, other)
	}
	// A restart finds the same, and so does a relay that comes new.
	b.kill(syscall.SIGKILL)
	b.start()
	b.follow(4)
	b.pullAll("v1.5.5")
}

// Imports at both relays at once queue at the bucket; one of them activates the release, all succeed.
func TestTwoRelaysQueue(t *testing.T) {
	m := newMemoryBucket(t)
	a, b := twoRelays(t, m.storage())
	testQueue(t, a, b)
}

func testQueue(t *testing.T, a, b *site) {
	t.Helper()
	var wg sync.WaitGroup
	var activated atomic.Int64
	for i := range 4 {
		wg.Go(func() {
			s := []*site{a, b}[i%2]
			out, err := s.run("plimsoll-relay", "import", s.bundle("v1.5.4"), "--data", s.data)
			if err != nil {
				t.Error(err)
			}
			if strings.Contains(out, "  active, generation 1") {
				activated.Add(1)
			}
		})
	}
	wg.Wait()
	if activated.Load() != 1 {
		t.Errorf("%d imports activated the release", activated.Load())
	}
	a.follow(1)
	b.follow(1)
	b.pullAll("v1.5.4")
}

// An import at one relay dies at each kind of write. The other one goes on serving, is able to import, and the first one
// follows it.
func TestTwoRelaysOneDies(t *testing.T) {
	for _, at := range relayDeaths { // the write at which it dies
		for _, done := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s %v", filepath.Base(at), done), func(t *testing.T) {
				t.Parallel() // most of the time is waiting for a lease
				m := newMemoryBucket(t)
				a, b := twoRelays(t, m.storage())
				a.must("import", a.bundle("v1.5.4"))
				b.follow(1)
				imp := a.as("dies", "import", a.bundle("v1.5.5"))
				var once sync.Once
				m.set(func() {
					m.before = func(client, key string) error {
						if client != "dies" || !strings.HasPrefix(key, at) {
							return nil
						}
						kill := func() {
							once.Do(func() {
								imp.Process.Signal(syscall.SIGKILL) //nolint:errcheck // it may have ended
							})
						}
						if !done {
							kill()
							return errors.New("it is dead")
						}
						time.AfterFunc(0, kill) // while the write is carried out, or answered
						return nil
					}
				})
				if err := imp.Start(); err != nil {
					t.Fatal(err)
				}
				if err := imp.Wait(); err == nil {
					t.Log("the import ended before the signal came")
				}
				b.pullWhole()
				start := time.Now()
				b.must("import", b.bundle("v1.5.5"))
				took := time.Since(start)
				a.follow(2)
				b.follow(2)
				if x, y := a.pullAll("v1.5.5"), b.pullAll("v1.5.5"); x != y {
					t.Errorf("one relay serves %+v, the other %+v", x, y)
				}
				start = time.Now()
				a.must("rollback")
				t.Logf("the other relay's import took %s, with waiting; then a roll-back at this one %s", took, time.Since(start))
				b.follow(3)
			})
		}
	}
}

// pullWhole pulls the release that is served, whichever of the two it is.
func (s *site) pullWhole() {
	s.t.Helper()
	version := "v1.5.4"
	if strings.Contains(s.must("status"), "generation 2") {
		version = "v1.5.5"
		s.follow(2)
	}
	s.pullAll(version)
}

// A relay that stood still while it imported does not undo what another did meanwhile.
func TestTwoRelaysOneSleeps(t *testing.T) {
	m := newMemoryBucket(t)
	a, b := twoRelays(t, m.storage())
	a.must("import", a.bundle("v1.5.4"))
	imp := a.as("sleeps", "import", a.bundle("v1.5.5"))
	var said logBuffer
	imp.Stdout, imp.Stderr = &said, &said
	stopped := make(chan error, 1)
	var once sync.Once
	m.set(func() {
		m.before = func(client, key string) error {
			if client == "sleeps" && strings.HasPrefix(key, "site7/site/releases/") {
				once.Do(func() { stopped <- imp.Process.Signal(syscall.SIGSTOP) })
			}
			return nil
		}
	})
	if err := imp.Start(); err != nil {
		t.Fatal(err)
	}
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	b.follow(1)
	start := time.Now()
	out := b.must("pin", "robot-stack", "v1.5.4") // no other generation: the number alone would not keep the sleeper away
	t.Logf("the lease was taken over after %s: %s", time.Since(start).Round(time.Millisecond), strings.TrimSpace(out))
	if err := imp.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := imp.Wait(); err == nil {
		t.Error("the import that slept committed")
	}
	if text := said.String(); !strings.Contains(text, "the right to change the shared state") && !strings.Contains(text, "has changed it meanwhile") {
		t.Errorf("the import that slept says:\n%s", text)
	}
	b.must("import", b.bundle("v1.5.5"))
	a.follow(2)
	if status := a.must("status", "--json"); !strings.Contains(status, `"pinned": [`+"\n") {
		t.Errorf("the pin is gone:\n%s", status)
	}
}

// While the bucket is away nothing can be changed, and the relays follow when it is back.
func TestTwoRelaysBucketAway(t *testing.T) {
	m := newMemoryBucket(t)
	a, b := twoRelays(t, m.storage())
	a.must("import", a.bundle("v1.5.4"))
	b.follow(1)
	m.set(func() { m.down = true })
	if out, err := a.as("import", "import", a.bundle("v1.5.5")).output(); err == nil {
		t.Errorf("an import without a bucket:\n%s", out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	waitFor(ctx, t, "the log does not say it", func() bool { return strings.Contains(b.log.String(), "the old one stays") })
	b.follow(1)
	m.set(func() { m.down = false })
	a.must("import", a.bundle("v1.5.5"))
	b.follow(2)
	b.pullAll("v1.5.5")
}

// A server that takes conditions and ignores them would let two relays overwrite each other's decisions.
func TestBucketWithoutConditions(t *testing.T) {
	m := newMemoryBucket(t)
	m.set(func() { m.loose = true })
	s := newSite(t)
	cmd := s.as("relay-a", "import", s.bundle("v1.5.4"), "--storage", m.storage())
	if out, err := cmd.output(); err == nil || !strings.Contains(out, "does not support conditional writes") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(s.data, "storage.json")); err == nil {
		t.Error("a storage that was refused is remembered")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for key := range m.objects {
		t.Errorf("%s is left", key)
	}
}
