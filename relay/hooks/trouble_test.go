package hooks

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Killed between any two steps, the relay tells at its next start what was not answered, and not what was.
func TestCrashes(t *testing.T) {
	dir := folder(t, plain("a"))
	state := filepath.Join(dir, StateFile)
	inBubble(t, func(t *testing.T, s *site) {
		r := s.run(dir, gen(1, "v1", "c1"))
		s.took()
		before, err := os.ReadFile(state)
		if err != nil {
			t.Fatal(err)
		}
		s.answer(func(string, Payload) int { return 0 })
		r.Activated(gen(2, "v2", "c1"))
		if len(s.took()) != 1 {
			t.Fatal("the attempt has not begun")
		}
		during, err := os.ReadFile(state)
		if err != nil {
			t.Fatal(err)
		}
		s.end()
		s.answer(nil)
		for name, content := range map[string][]byte{"before it was noticed": before, "while it was told": during, "damaged": []byte(`{"apiVersion":`), "absent": nil} {
			if err := os.WriteFile(state, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if content == nil {
				if err := os.Remove(state); err != nil {
					t.Fatal(err)
				}
			}
			s.run(dir, gen(2, "v2", "c1"))
			calls := s.took()
			s.end()
			last := calls[len(calls)-1].payload
			if last.Channel != "stable" || last.Version != "v2" || content != nil && json.Valid(content) && (len(calls) != 1 || last.Previous.Version != "v1") {
				t.Errorf("%s: %+v", name, calls)
			}
			// Killed while v2 was told, and rolled back before the next start: it may have heard of v2.
			if name == "while it was told" {
				if err := os.WriteFile(state, content, 0o600); err != nil {
					t.Fatal(err)
				}
				s.run(dir, gen(3, "v1", "c1"))
				if p := one(t, s.took()); p.Version != "v1" {
					t.Errorf("%+v", p)
				}
				s.end()
			}
		}
	})
}

// Neither a full disk nor a journal that refuses keeps hooks from being told.
func TestTroubleOfOurOwn(t *testing.T) {
	dir := folder(t, plain("a"))
	if err := os.MkdirAll(filepath.Join(dir, StateFile, "x"), 0o755); err != nil { // nothing can be renamed over it
		t.Fatal(err)
	}
	inBubble(t, func(t *testing.T, s *site) {
		s.journal.err = errors.New("full")
		r := s.run(dir, gen(1, "v1", "c1"))
		if calls := s.took(); len(calls) != 2 {
			t.Errorf("%+v", calls)
		}
		r.Activated(gen(2, "v2", "c1"))
		if p := one(t, s.took()); p.Version != "v2" {
			t.Errorf("%+v", p)
		}
	})
}

// Nothing is told before the process knows what it serves, and nothing of a relay without releases.
func TestNothingToTell(t *testing.T) {
	dir := folder(t, plain("a"))
	inBubble(t, func(t *testing.T, s *site) {
		r := s.run(dir)
		time.Sleep(time.Hour)
		r.Activated(Served{})
		time.Sleep(time.Hour)
		if calls := s.took(); len(calls) > 0 {
			t.Errorf("%+v", calls)
		}
		r.Activated(gen(1, "v1", "c1"))
		if calls := s.took(); len(calls) != 2 {
			t.Errorf("%+v", calls)
		}
		s.end()
		if len(s.journal.results) != 1 {
			t.Errorf("%+v", s.journal.results)
		}
	})
}

// A start that has yet to learn what it serves does not tell what the process before it served.
func TestStartKnowsNothingYet(t *testing.T) {
	dir := folder(t, plain("a"))
	path := filepath.Join(dir, File)
	inBubble(t, func(t *testing.T, s *site) {
		r := s.run(dir, gen(1, "v1", "c1"))
		s.took()
		s.answer(func(string, Payload) int { return http.StatusBadGateway })
		r.Activated(gen(2, "v2", "c1"))
		s.took()
		s.end()
		s.answer(nil)
		r = s.run(dir)
		time.Sleep(time.Hour)
		if calls := s.took(); len(calls) > 0 {
			t.Errorf("%+v", calls)
		}
		r.Activated(gen(3, "v3", "c1"))
		if p := one(t, s.took()); p.Generation != 3 || p.Previous.Version != "v1" {
			t.Errorf("%+v", p)
		}
		s.end()
		// Nor does it forget what was told while it cannot read who the hooks are.
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		s.run(dir, gen(4, "v4", "c1"))
		time.Sleep(time.Hour)
		if err := os.WriteFile(path, before, 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookInterval)
		if p := one(t, s.took()); p.Generation != 4 || p.Previous == nil || p.Previous.Version != "v3" {
			t.Errorf("%+v", p)
		}
	})
}

// What one hook is being told is not lost when another one's result is written, and the relay dies then.
func TestStateHasWhatIsUnderWay(t *testing.T) {
	dir := folder(t, plain("deaf"), plain("slow"))
	inBubble(t, func(t *testing.T, s *site) {
		r := s.run(dir, gen(1, "v1", "c1"))
		s.took()
		s.answer(func(host string, _ Payload) int {
			if host == "deaf.example" {
				return 0
			}
			time.Sleep(time.Second)
			return http.StatusOK
		})
		r.Activated(gen(2, "v2", "c1"))
		time.Sleep(2 * time.Second)
		s.took()
		doc, err := readState(dir)
		if err != nil {
			t.Fatal(err)
		}
		if deaf, slow := doc.Hooks[0], doc.Hooks[1]; deaf.Pending == nil || slow.Pending != nil || slow.Told != 2 {
			t.Errorf("%+v", doc.Hooks)
		}
	})
}

// That an attempt was cut short for a newer generation does not cut short the wait after the next one.
func TestWaitIsNotCutShort(t *testing.T) {
	dir := folder(t, plain("a"))
	inBubble(t, func(t *testing.T, s *site) {
		r := s.run(dir, gen(1, "v1", "c1"))
		s.took()
		s.answer(func(_ string, p Payload) int {
			if p.Generation == 2 {
				return 0
			}
			return http.StatusBadGateway
		})
		r.Activated(gen(2, "v2", "c1"))
		s.took()
		r.Activated(gen(3, "v3", "c1"))
		time.Sleep(firstWait / 2)
		if p := one(t, s.took()); p.Generation != 3 {
			t.Errorf("%+v", p)
		}
	})
}
