package integration

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// An import and the serving relay are killed at random moments. Afterwards the relay starts, serves exactly the old or
// exactly the new release, and the repeated import completes.
func TestKilledImport(t *testing.T) {
	base := newSite(t)
	base.must("import", base.bundle("v1.5.4"))
	base.start()
	base.follow(1)
	old := base.pullAll("v1.5.4")
	base.kill(syscall.SIGTERM)

	took := measureImport(t, base)
	seed := uint64(time.Now().UnixNano())
	t.Logf("an import takes %v; seed %d", took, seed)
	random := rand.New(rand.NewPCG(seed, 1))
	var outcomes [2]int
	for range crashRuns {
		s := copySite(t, base)
		s.start()
		imp := s.command("plimsoll-relay", "import", s.bundle("v1.5.5"), "--data", s.data)
		if err := imp.Start(); err != nil {
			t.Fatal(err)
		}
		// Uniform over a little more than an import takes, so that each step is hit, the commit and what follows too.
		timer := time.NewTimer(time.Duration(random.Int64N(int64(took) * 5 / 4)))
		<-timer.C
		imp.Process.Signal(syscall.SIGKILL) //nolint:errcheck // it may have ended
		s.kill(syscall.SIGKILL)
		imp.Wait() //nolint:errcheck // killed

		s.start()
		generation := s.activeGeneration()
		switch generation {
		case 1:
			outcomes[0]++
			s.follow(1)
			if got := s.pullAll("v1.5.4"); got != old {
				t.Errorf("the old release is not the one it was: %+v, want %+v", got, old)
			}
			if _, _, err := s.relay.PullImage(t.Context(), app+":v1.5.5", linux("amd64")); err == nil {
				t.Error("generation 1 serves a tag of the new release")
			}
		case 2:
			outcomes[1]++
			s.follow(2)
			s.pullAll("v1.5.5")
		default:
			t.Errorf("generation %d", generation)
		}
		s.must("import", s.bundle("v1.5.5"))
		s.follow(2)
		s.pullAll("v1.5.5")
		s.kill(syscall.SIGKILL)
		if t.Failed() {
			t.Fatalf("the data folder is %s\n%s", s.data, s.log.String())
		}
		os.RemoveAll(s.data) //nolint:errcheck // scratch
	}
	t.Logf("%d times the old release was served after the crash, %d times the new one", outcomes[0], outcomes[1])
}

func measureImport(t *testing.T, base *site) time.Duration {
	t.Helper()
	s := copySite(t, base)
	start := time.Now()
	s.must("import", s.bundle("v1.5.5"))
	return time.Since(start)
}

// copySite gives a site of its own with the same data.
func copySite(t *testing.T, base *site) *site {
	t.Helper()
	s := &site{fixture: base.fixture, t: t, data: filepath.Join(t.TempDir(), "data"), password: base.password}
	if err := os.CopyFS(s.data, os.DirFS(base.data)); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) activeGeneration() int {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.data, "active.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	var active struct {
		Generation int `json:"generation"`
	}
	if err := json.Unmarshal(data, &active); err != nil {
		s.t.Fatal(err)
	}
	return active.Generation
}
