package integration

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/relay"
)

const (
	modelVersions = 6
	modelKeep     = 3
)

var modelBundles = []string{"line-a", "line-b"}

// model is what a relay ought to be, said as simply as possible.
type model struct {
	channels map[string]*modelChannel
	staged   map[string]bool // "name version": its record and bytes are here
	pinned   map[string]bool
}

type modelChannel struct {
	active, accepted int
	previous         []int // the latest first
}

func key(name string, version int) string { return fmt.Sprintf("%s v1.%d.0", name, version) }

// kept are the releases whose bytes must be here.
func (m *model) kept() map[string]bool {
	all := maps.Clone(m.staged)
	for name, c := range m.channels {
		for _, v := range append([]int{c.active}, c.previous...) {
			all[key(name, v)] = true
		}
	}
	return all
}

// accept says whether a release may become active by import or activate.
func (m *model) accept(name string, v int) bool {
	c := m.channels[name]
	return c == nil || v == c.active || v >= c.accepted
}

// activate makes a release active that accept allows.
func (m *model) activate(name string, v int) {
	c := m.channels[name]
	switch {
	case c == nil:
		m.channels[name] = &modelChannel{active: v, accepted: v}
	case c.active != v:
		c.accepted = v
		m.replace(name, v)
	}
}

func (m *model) replace(name string, v int) {
	c := m.channels[name]
	var previous []int
	n := 1
	for _, p := range append([]int{c.active}, c.previous...) {
		if p == v || slices.Contains(previous, p) {
			continue
		}
		if m.pinned[key(name, p)] {
			previous = append(previous, p)
		} else if n++; n <= modelKeep {
			previous = append(previous, p)
		} else {
			delete(m.staged, key(name, p))
		}
	}
	c.active, c.previous = v, previous
}

// forget drops the staged releases that can never become active again.
func (m *model) forget() {
	kept := (&model{channels: m.channels, staged: map[string]bool{}}).kept()
	maps.DeleteFunc(m.staged, func(k string, _ bool) bool {
		name, version, _ := strings.Cut(k, " v1.")
		c := m.channels[name]
		v, _ := strconv.Atoi(strings.TrimSuffix(version, ".0"))
		return c != nil && v < c.accepted && !kept[k] && !m.pinned[k]
	})
}

// rollback goes to the latest release before that is older than the active one.
func (m *model) rollback(name string) bool {
	c := m.channels[name]
	if c == nil {
		return false
	}
	for _, p := range c.previous {
		if p < c.active {
			m.replace(name, p)
			return true
		}
	}
	return false
}

// String is what Status must say.
func (m *model) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m.channels)) {
		c := m.channels[name]
		fmt.Fprintf(&b, "%s: v1.%d.0", name, c.active)
		for _, p := range c.previous {
			fmt.Fprintf(&b, " v1.%d.0", p)
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "pins: %d\n", len(m.pinned))
	return b.String()
}

func statusText(st relay.Status) string {
	var b strings.Builder
	for _, c := range st.Channels {
		fmt.Fprintf(&b, "%s: %s", c.Name, c.Active.Version)
		for _, p := range c.Previous {
			b.WriteString(" " + p.Version)
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "pins: %d\n", len(st.Pinned))
	return b.String()
}

// modelReleases builds the releases of the model, with images of their own, images in common and a Git repository each.
func modelReleases(t *testing.T) (f *fixture, folder func(name string, version int) string) {
	t.Helper()
	f = releases(t)
	dir := t.TempDir()
	folder = func(name string, version int) string { return filepath.Join(dir, key(name, version)) }
	layoutImages(t, filepath.Join(dir, "common"), "common", 2)
	for _, name := range modelBundles {
		repository := f.path("git", name+".git")
		if err := os.RemoveAll(repository); err != nil {
			t.Fatal(err)
		}
		f.git(t, "", "init", "--quiet", "--bare", "--initial-branch=main", repository)
		for v := range modelVersions {
			own := filepath.Join(dir, "own")
			layoutImages(t, own, key(name, v), 2)
			from := ""
			if v > 0 {
				from = "from refs/heads/main^0\n"
			}
			f.git(t, fmt.Sprintf("commit refs/heads/main\ncommitter R <r@example.com> %d +0000\ndata 1\nx\n%sM 100644 inline values.yaml\ndata %d\n%s\n",
				1_700_000_000+v, from, len(key(name, v)), key(name, v)), "-C", repository, "fast-import", "--quiet")
			spec := filepath.Join(dir, "bundle.yaml")
			text := fmt.Sprintf("apiVersion: plimsoll.dev/v1\nkind: Bundle\nmetadata: {name: %s, version: v1.%d.0, created: 2026-11-21T00:00:00Z}\nspec:\n  images:\n", name, v)
			for i := range 2 {
				text += fmt.Sprintf("    - {ref: \"oci:%s:app-%02d\", as: \"ghcr.io/%s/own-%d:v1.%d.0\"}\n", own, i, name, i, v)
				text += fmt.Sprintf("    - {ref: \"oci:%s:app-%02d\", as: \"ghcr.io/%s/common-%d:v1\"}\n", filepath.Join(dir, "common"), i, name, i)
			}
			text += fmt.Sprintf("  git:\n    - {url: \"https://github.com/acme/%s.git\", refs: [main]}\n", name)
			if err := os.WriteFile(spec, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := f.run("plimsoll", "build", "-f", spec, "-o", folder(name, v), "--no-sbom",
				"--sign", f.path("keys", "release.key"), "--attest", f.path("keys", "attest.key")); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(own); err != nil {
				t.Fatal(err)
			}
		}
	}
	return f, folder
}

// modelled is a relay beside its model.
type modelled struct {
	t      *testing.T
	f      *fixture
	folder func(name string, version int) string
	dir    string
	relay  *relay.Relay
	model  model
	policy attest.Policy
	log    []string
}

// reopen is what a restart does.
func (m *modelled) reopen() {
	m.t.Helper()
	var err error
	if m.relay, err = relay.Open(m.t.Context(), m.dir, relay.Options{}); err != nil {
		m.t.Fatal(err)
	}
}

func (m *modelled) doImport(name string, v int, stage bool) error {
	src, err := media.OpenSource(m.t.Context(), m.folder(name, v), media.Options{})
	if err != nil {
		m.t.Fatal(err)
	}
	defer src.Close() //nolint:errcheck // only read from
	_, err = m.relay.Import(m.t.Context(), src, relay.ImportOptions{Policy: m.policy, From: "test", StageOnly: stage})
	return err
}

// step does one random thing to both, and says what; the relay must refuse exactly what the model refuses.
func (m *modelled) step(r *rand.Rand) {
	name, v := modelBundles[r.IntN(len(modelBundles))], r.IntN(modelVersions)
	version := fmt.Sprintf("v1.%d.0", v)
	here := m.model.kept()[key(name, v)]
	ctx := m.t.Context()
	var err error
	var allowed bool
	var what string
	switch n := r.IntN(16); {
	case n < 4:
		what, allowed = "import "+key(name, v), m.model.accept(name, v)
		if err = m.doImport(name, v, false); allowed {
			m.model.activate(name, v)
			m.model.staged[key(name, v)] = true
		}
	case n < 6:
		what, allowed = "stage "+key(name, v), m.model.accept(name, v)
		if err = m.doImport(name, v, true); allowed {
			m.model.staged[key(name, v)] = true
		}
	case n < 8:
		what, allowed = "activate "+key(name, v), here && m.model.accept(name, v)
		if _, err = m.relay.Activate(ctx, name, version); allowed {
			m.model.activate(name, v)
		}
	case n < 10:
		what = "rollback " + name
		allowed = m.model.rollback(name)
		_, err = m.relay.Rollback(ctx, name, "")
	case n < 11:
		what, allowed = "pin "+key(name, v), here
		if _, err = m.relay.Pin(ctx, name, version, ""); allowed {
			m.model.pinned[key(name, v)] = true
		}
	case n < 12:
		what, allowed = "unpin "+key(name, v), here
		_, err = m.relay.Unpin(ctx, name, version)
		delete(m.model.pinned, key(name, v))
	case n < 13:
		what, allowed = "restart", true
		m.reopen()
	default:
		what, allowed = "gc", true
		_, err = m.relay.GC(ctx, relay.GCOptions{})
		m.collected()
	}
	m.log = append(m.log, fmt.Sprintf("%s: %v", what, err))
	if (err == nil) != allowed {
		m.fail("%s: %v; the model allows it: %v", what, err, allowed)
	}
}

func (m *modelled) fail(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("%s\n%s\nafter\n  %s", fmt.Sprintf(format, args...), m.model.String(), strings.Join(m.log, "\n  "))
}

// collected holds the store against the releases that are kept: nothing is missing, and nothing else is there.
func (m *modelled) collected() {
	m.t.Helper()
	m.model.forget()
	want := make(map[string]bool)
	for k := range m.model.kept() {
		for _, blob := range blobNames(m.t, filepath.Join(filepath.Dir(m.folder("x", 0)), k, "blobs", "sha256", "*")) {
			want[blob] = true
		}
	}
	have := make(map[string]bool)
	for _, blob := range blobNames(m.t, filepath.Join(m.dir, "store", "blobs", "sha256", "*", "*")) {
		have[blob] = true
		if !want[blob] {
			m.fail("after gc %s is still in the store", blob)
		}
	}
	for blob := range want {
		if !have[blob] {
			m.fail("after gc %s is not in the store any more", blob)
		}
	}
}

func blobNames(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	for i := range found {
		found[i] = filepath.Base(found[i])
	}
	return found
}

// check holds the relay against the model.
func (m *modelled) check() {
	m.t.Helper()
	st, err := m.relay.Status(m.t.Context())
	if err != nil {
		m.fail("status: %v", err)
	}
	if got := statusText(st); got != m.model.String() {
		m.fail("the relay says\n%s", got)
	}
	report := m.relay.CheckSite(m.t.Context(), relay.CheckOptions{})
	for _, v := range slices.Concat(report.Violations, report.Warnings) {
		m.fail("%v", v)
	}
}

// TestModel: whatever is done, in whatever order, a relay is what a model of thirty lines says, keeps what it must, and
// after a collection of garbage nothing else.
func TestModel(t *testing.T) {
	f, folder := modelReleases(t)
	pem, err := os.ReadFile(f.path("keys", "release.pub"))
	if err != nil {
		t.Fatal(err)
	}
	for seed := range modelRuns {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := &modelled{t: t, f: f, folder: folder, dir: t.TempDir()}
			m.model = model{channels: map[string]*modelChannel{}, staged: map[string]bool{}, pinned: map[string]bool{}}
			m.reopen()
			if _, err := m.relay.TrustKey(t.Context(), pem); err != nil {
				t.Fatal(err)
			}
			keys, err := m.relay.TrustedKeys()
			if err != nil {
				t.Fatal(err)
			}
			m.policy = attest.Policy{ReleaseKeys: keys}
			r := rand.New(rand.NewPCG(uint64(seed), 1))
			for range modelSteps {
				m.step(r)
				m.check()
			}
		})
	}
}
