package integration

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"
)

// Clients pull images and clone Git while releases are switched under them. No request may fail, and within one
// generation nobody may see image tags of one release with Git refs of the other.
func TestSwitchesUnderLoad(t *testing.T) {
	s := newSite(t)
	s.must("import", s.bundle("v1.5.4"))
	s.must("import", s.bundle("v1.5.5"))
	s.start()
	s.follow(2)
	w := &watch{site: s, seen: make(map[string]map[string]string), noted: make(chan struct{}, 1)}
	if err := w.learn(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	clients, cctx := errgroup.WithContext(ctx)
	for i := range loadClients {
		clients.Go(func() error {
			for n := 0; cctx.Err() == nil; n++ {
				if err := w.client(cctx, i, n); err != nil && cctx.Err() == nil {
					return fmt.Errorf("client %d: %w", i, err)
				}
			}
			return nil
		})
	}
	generation := 2
	for i := range loadSwitches {
		if i%2 == 0 {
			s.must("rollback")
		} else {
			s.must("activate", "robot-stack", "v1.5.5")
		}
		generation++
		s.follow(generation)
		if !w.await(cctx, fmt.Sprint(generation)) {
			break
		}
	}
	stop()
	if err := clients.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, s.log.String())
	}
	if w.pulls.Load() == 0 || w.clones.Load() == 0 {
		t.Errorf("%d pulls, %d clones", w.pulls.Load(), w.clones.Load())
	}
	t.Logf("%d clients, %d switches: %d pulls, %d clones, %d generations seen, 0 errors",
		loadClients, loadSwitches, w.pulls.Load(), w.clones.Load(), len(w.seen))
	w.check(t)
}

// watch collects what was seen in each generation: the tags of the image, and the commit of main.
type watch struct {
	*site
	pulls, clones atomic.Int64
	mu            sync.Mutex
	seen          map[string]map[string]string // generation → what → value
	noted         chan struct{}                // something was seen
	release       map[string]string            // value → release
}

// learn finds out which digests and commits belong to which release.
func (w *watch) learn() error {
	w.release = make(map[string]string)
	for _, version := range []string{"v1.5.4", "v1.5.5"} {
		out, err := w.run("plimsoll", "inspect", "--json", w.bundle(version))
		if err != nil {
			return err
		}
		var doc struct {
			Lock struct {
				Items []struct {
					Name string `json:"name"`
					Git  *struct {
						Refs []struct{ Name, OID string } `json:"refs"`
					} `json:"git"`
				} `json:"items"`
			} `json:"lock"`
		}
		if err := json.Unmarshal([]byte(out), &doc); err != nil {
			return err
		}
		for _, it := range doc.Lock.Items {
			if it.Name == app+":"+version {
				w.release["tags "+version] = version
			}
			if it.Git != nil {
				for _, ref := range it.Git.Refs {
					if ref.Name == "refs/heads/main" {
						w.release["main "+ref.OID] = version
					}
				}
			}
		}
	}
	return nil
}

func (w *watch) client(ctx context.Context, i, n int) error {
	if err := w.tags(ctx); err != nil {
		return err
	}
	if err := w.refs(ctx); err != nil {
		return err
	}
	if err := w.pull(ctx); err != nil {
		return err
	}
	w.pulls.Add(1)
	if i%10 == 0 { // a git process for each of a hundred clients would measure the machine, not the relay
		dir := w.t.TempDir()
		name := fmt.Sprintf("c%d", n)
		args := []string{"clone", "-q", repo, name}
		if n%2 == 1 {
			args = []string{"clone", "-q", "--depth", "1", repo, name}
		}
		if _, err := w.relay.Git(ctx, dir, args...); err != nil {
			return err
		}
		if _, err := w.relay.Git(ctx, filepath.Join(dir, name), "fsck", "--connectivity-only"); err != nil {
			return err
		}
		w.clones.Add(1)
	}
	return nil
}

func (w *watch) get(ctx context.Context, path string) ([]byte, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.relay.URL(path), nil)
	if err != nil {
		return nil, "", err
	}
	resp, err := w.relay.HTTP().Do(req)
	if err != nil {
		return nil, "", err
	}
	body, err := io.ReadAll(resp.Body)
	err = errors.Join(err, resp.Body.Close())
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, resp.Status, body)
	}
	return body, resp.Header.Get("Plimsoll-Generation"), err
}

func (w *watch) tags(ctx context.Context) error {
	body, generation, err := w.get(ctx, "/v2/acme/robot-app/tags/list?ns=ghcr.io")
	if err != nil {
		return err
	}
	var list struct{ Tags []string }
	if err := json.Unmarshal(body, &list); err != nil {
		return err
	}
	for _, tag := range list.Tags {
		if strings.HasPrefix(tag, "v") {
			return w.note(generation, "tags", tag)
		}
	}
	return fmt.Errorf("no version among the tags %v", list.Tags)
}

func (w *watch) refs(ctx context.Context) error {
	body, generation, err := w.get(ctx, "/git/github.com/acme/robot-deployment/info/refs?service=git-upload-pack")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(body)) {
		if before, ok := strings.CutSuffix(strings.TrimSpace(line), " refs/heads/main"); ok {
			return w.note(generation, "main", before[len(before)-40:])
		}
	}
	return fmt.Errorf("no main in the advertisement of %d bytes", len(body))
}

// pull follows what the generation of the moment lists down to the last layer, by digest: it must succeed even when the
// release is switched in between.
func (w *watch) pull(ctx context.Context) error {
	body, listed, err := w.get(ctx, "/v2/ghcr.io/acme/robot-app/tags/list")
	if err != nil {
		return err
	}
	var list struct{ Tags []string }
	if err := json.Unmarshal(body, &list); err != nil {
		return err
	}
	var raw []byte
	for _, tag := range list.Tags {
		if strings.HasPrefix(tag, "v") {
			var got string
			if raw, got, err = w.get(ctx, "/v2/ghcr.io/acme/robot-app/manifests/"+tag); err != nil {
				// Only a switch between the two requests may take the tag away.
				if got != "" && got != listed {
					return nil
				}
				return err
			}
		}
	}
	var index struct{ Manifests []struct{ Digest string } }
	if err := json.Unmarshal(raw, &index); err != nil {
		return err
	}
	raw, _, err = w.get(ctx, "/v2/ghcr.io/acme/robot-app/manifests/"+index.Manifests[0].Digest)
	if err != nil {
		return err
	}
	var manifest struct{ Layers []struct{ Digest string } }
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return err
	}
	for _, layer := range manifest.Layers {
		data, _, err := w.get(ctx, "/v2/ghcr.io/acme/robot-app/blobs/"+layer.Digest)
		if err != nil {
			return err
		}
		zr, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, zr); err != nil {
			return fmt.Errorf("layer %s: %w", layer.Digest, err)
		}
	}
	return nil
}

func (w *watch) note(generation, what, value string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen[generation] == nil {
		w.seen[generation] = make(map[string]string)
	}
	if before, ok := w.seen[generation][what]; ok && before != value {
		return fmt.Errorf("generation %s has %s %s and %s", generation, what, before, value)
	}
	w.seen[generation][what] = value
	select {
	case w.noted <- struct{}{}:
	default:
	}
	return nil
}

// await waits until a generation was seen from both sides, unless the clients ended.
func (w *watch) await(ctx context.Context, generation string) bool {
	for {
		w.mu.Lock()
		n := len(w.seen[generation])
		w.mu.Unlock()
		if n == 2 {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-w.noted:
		}
	}
}

func (w *watch) check(t *testing.T) {
	both := 0
	for generation, saw := range w.seen {
		tags, main := w.release["tags "+saw["tags"]], w.release["main "+saw["main"]]
		if saw["tags"] == "" || saw["main"] == "" {
			continue
		}
		both++
		if tags == "" || tags != main {
			t.Errorf("generation %s has image tags of %q (%s) and Git refs of %q (%s)", generation, tags, saw["tags"], main, saw["main"])
		}
	}
	if both < loadSwitches {
		t.Errorf("only %d generations were seen from both sides", both)
	}
}
