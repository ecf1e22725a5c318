package integration

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/receipt"
	"github.com/plimsoll/plimsoll/relay"
	"github.com/plimsoll/plimsoll/relay/identity"
	"github.com/plimsoll/plimsoll/relay/journal"
)

// undeliveredEnv names the data folder to the process that TestReceiptKilledBeforeDelivery kills.
const undeliveredEnv = "PLIMSOLL_TEST_UNDELIVERED_RECEIPT"

// TestUndeliveredReceipt is that process: it makes a promise, says so, and never gets its receipt out. It tests nothing
// by itself.
func TestUndeliveredReceipt(t *testing.T) {
	data := os.Getenv(undeliveredEnv)
	if data == "" {
		return
	}
	id, err := identity.Open(filepath.Join(data, identity.Folder))
	if err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(filepath.Join(data, journal.Folder), journal.Options{Identity: id})
	if err != nil {
		t.Fatal(err)
	}
	r, err := relay.Open(t.Context(), data, relay.Options{Journal: j})
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Receipt(t.Context(), relay.ReceiptOptions{
		Identity: id, Checkpoint: j.Checkpoint, Promise: true,
		Deliver: func([]byte) error {
			fmt.Println("promised")
			_, err := io.Copy(io.Discard, os.Stdin) // until it is killed, or who should have done it is gone
			return errors.Join(errors.New("not killed"), err)
		},
	})
	t.Fatal(err)
}

// promises reads what the relay has promised.
func (s *site) promises() []digest.Digest {
	s.t.Helper()
	var doc struct {
		Bundles []digest.Digest `json:"bundles"`
	}
	data, err := os.ReadFile(filepath.Join(s.data, "promised.json"))
	if err == nil {
		err = json.Unmarshal(data, &doc)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return doc.Bundles
}

// promise makes a receipt that promises and gives what it lists.
func (s *site) promise(file string) []digest.Digest {
	s.t.Helper()
	s.must("receipt", "--promise", "-o", file)
	return s.listed(file)
}

// listed verifies a receipt with the relay's key and gives the bundles that it lists.
func (s *site) listed(file string) []digest.Digest {
	s.t.Helper()
	keys, err := attest.ParsePublicKeys([]byte(s.must("journal", "key")))
	if err != nil {
		s.t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	v, err := receipt.Verify(data, keys)
	if err != nil {
		s.t.Fatal(err)
	}
	var all []digest.Digest
	for _, b := range v.Receipt().Bundles {
		if !b.Whole {
			s.t.Errorf("%s: bundle %s is not whole", file, b.Digest)
		}
		all = append(all, b.Digest)
	}
	return all
}

// mustKeep wants all bundles among those that are kept.
func mustKeep(t *testing.T, kept, wanted []digest.Digest, why string) {
	t.Helper()
	for _, d := range wanted {
		if !slices.Contains(kept, d) {
			t.Errorf("%s: %s is not promised any more, only %v", why, d, kept)
		}
	}
}

// twoReleases serves v1.5.5, and has v1.5.4 for no other reason than a promise, whose receipt left.
func twoReleases(t *testing.T) (s *site, left []digest.Digest) {
	t.Helper()
	s = newSite(t)
	s.must("import", "--stage", s.bundle("v1.5.4"))
	left = s.promise(filepath.Join(t.TempDir(), "first.receipt"))
	s.must("import", s.bundle("v1.5.5"))
	return s, left
}

// A relay that is killed when it has promised, and nobody got the receipt, keeps what it promised and makes the next
// receipt.
func TestReceiptKilledBeforeDelivery(t *testing.T) {
	s, left := twoReleases(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-test.run=^TestUndeliveredReceipt$", "-test.count=1")
	cmd.Env = append(s.env, undeliveredEnv+"="+s.data)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close() //nolint:errcheck // nobody reads it any more
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "promised\n" {
		t.Errorf("%q, %v; want it to promise", line, err)
	}
	cmd.Process.Signal(syscall.SIGKILL) //nolint:errcheck // Wait says how it ended
	var end *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &end) || end.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%v; want it to be killed", err)
	}

	promised := s.promises()
	mustKeep(t, promised, left, "the receipt that left before")
	s.must("gc")
	s.must("check")
	listed := s.promise(filepath.Join(t.TempDir(), "next.receipt")) // nobody holds the lock any more
	if len(listed) != 1 {
		t.Errorf("the next receipt lists %v, want v1.5.5 alone", listed)
	}
	mustKeep(t, promised, listed, "after the kill")
	if now := s.promises(); !slices.Equal(now, listed) {
		t.Errorf("promised %v, want what the receipt lists: %v", now, listed)
	}
}

// `receipt --promise` is killed as soon as it has promised, and at random moments. Whatever receipt is there is whole, and
// what it lists is promised; no kill lets go of what the one before lists.
func TestKilledReceipt(t *testing.T) {
	s, before := twoReleases(t)
	older := before[0]
	dir := t.TempDir()
	start := time.Now()
	before = s.promise(filepath.Join(dir, "measured.receipt"))
	took := time.Since(start)
	seed := uint64(time.Now().UnixNano())
	t.Logf("a receipt takes %v; seed %d", took, seed)
	random := rand.New(rand.NewPCG(seed, 1))
	out, deadline := 0, time.Now().Add(10*time.Second)
	rounds := 0
	for ; rounds < 20 && time.Now().Before(deadline); rounds++ {
		// What is promised grows and shrinks from round to round.
		verb := "pin"
		if rounds%2 == 1 {
			verb = "unpin"
		}
		s.must(verb, "robot-stack", older.String())
		file := filepath.Join(dir, fmt.Sprint(rounds, ".receipt"))
		promise := s.promisedFile()
		cmd := s.command("plimsoll-relay", "receipt", "--promise", "-o", file, "--data", s.data)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if rounds%4 < 2 {
			s.waitForPromise(promise, cmd)
		} else {
			timer := time.NewTimer(time.Duration(random.Int64N(int64(took) * 5 / 4)))
			<-timer.C
		}
		cmd.Process.Signal(syscall.SIGKILL) //nolint:errcheck // it may have ended
		cmd.Wait()                          //nolint:errcheck // killed

		now := s.promises()
		switch _, err := os.Stat(file); {
		case err == nil:
			out++
			mustKeep(t, now, s.listed(file), "a receipt that left")
		case !errors.Is(err, fs.ErrNotExist):
			t.Fatal(err)
		}
		next := s.promise(filepath.Join(dir, "next.receipt"))
		if _, err := os.Stat(file); err != nil && !contains(now, before) {
			t.Errorf("after the kill %v is promised, before it was %v, the next receipt lists %v", now, before, next)
		}
		if got := s.promises(); !slices.Equal(got, next) {
			t.Errorf("promised %v, want what the next receipt lists: %v", got, next)
		}
		before = next
		if t.Failed() {
			t.Fatalf("round %d, data folder %s", rounds, s.data)
		}
	}
	s.must("gc")
	s.must("check")
	s.must("journal", "verify")
	t.Logf("%d kills, %d of them when the receipt was out", rounds, out)
}

// promisedFile is the file of the promises as it is now.
func (s *site) promisedFile() fs.FileInfo {
	s.t.Helper()
	fi, err := os.Stat(filepath.Join(s.data, "promised.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	return fi
}

// waitForPromise waits until there is another promise than the one before, for not much longer than a command takes. The
// second of two new files may have the inode of the one before.
func (s *site) waitForPromise(before fs.FileInfo, cmd command) {
	s.t.Helper()
	for end := time.Now().Add(time.Minute); ; runtime.Gosched() {
		if now := s.promisedFile(); !os.SameFile(before, now) || !now.ModTime().Equal(before.ModTime()) {
			return
		}
		if time.Now().After(end) {
			cmd.Process.Kill() //nolint:errcheck // it is given up
			cmd.Wait()         //nolint:errcheck // killed
			s.t.Fatal("no promise was made")
		}
	}
}

func contains(all, some []digest.Digest) bool {
	return !slices.ContainsFunc(some, func(d digest.Digest) bool { return !slices.Contains(all, d) })
}
