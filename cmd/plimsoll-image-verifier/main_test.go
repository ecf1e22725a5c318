package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest/allowlist"
)

const (
	app   = "ghcr.io/acme/robot-app"
	pause = "docker.io/rancher/mirrored-pause"
)

var now = time.Date(2026, 3, 15, 0, 0, 0, 0, time.UTC)

func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func d(text string) string { return digest.FromString(text).String() }

// robot is a machine with a verifier.
type robot struct {
	t      testing.TB
	dir    string
	config map[string]any
}

func newRobot(t testing.TB) *robot {
	r := &robot{t: t, dir: t.TempDir()}
	r.config = map[string]any{
		"keys": []string{allowlist.FormatKey(key(1).Public().(ed25519.PublicKey))},
		"list": r.path("list"), "site": "plant-7", "mode": "enforce", "state": r.path("state/seen.json"),
		"mirrors": []string{"relay.plant:5000"}, "unlisted": []string{pause, "registry.k8s.io/e2e/@" + d("e2e")},
	}
	r.configure()
	r.give(list(7), key(1))
	return r
}

func (r *robot) path(name string) string { return filepath.Join(r.dir, name) }

func (r *robot) configure() {
	r.t.Helper()
	data, err := json.MarshalIndent(r.config, "", "  ")
	if err != nil {
		r.t.Fatal(err)
	}
	r.write("config", data)
}

func (r *robot) write(name string, data []byte) {
	r.t.Helper()
	if err := os.WriteFile(r.path(name), data, 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func list(generation uint64) *allowlist.List {
	return &allowlist.List{
		Relay: allowlist.Relay{Name: "relay"}, Site: "plant-7", Generation: generation, Made: "2026-03-01T10:00:00Z",
		Repositories: allowlist.Collect([]allowlist.Image{
			{Repository: app, Digest: digest.FromString("v2"), Active: true}, {Repository: app, Digest: digest.FromString("v1")},
			{Repository: "ghcr.io/acme/shell", Digest: digest.FromString("shell"), Active: true},
		}),
	}
}

func (r *robot) give(l *allowlist.List, k ed25519.PrivateKey) {
	r.t.Helper()
	data, err := allowlist.Sign(l, k)
	if err != nil {
		r.t.Fatal(err)
	}
	r.write("list", data)
}

func arguments(name, d string) []string {
	return []string{"-name", name, "-digest", d, "-stdin-media-type", typeDescriptor}
}

func descriptor(d string) string {
	return fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"%s","size":7}`+"\n", d)
}

// ask asks as containerd does.
func (r *robot) ask(name, d string) (code int, reason string) {
	return r.run(arguments(name, d), strings.NewReader(descriptor(d)), now)
}

func (r *robot) run(args []string, stdin io.Reader, at time.Time) (code int, reason string) {
	r.t.Helper()
	var out, stderr bytes.Buffer
	code = run(args, stdin, &out, &stderr, r.path("config"), at)
	text := out.String()
	if strings.Count(text, "\n") != 1 || len(text) > maxReason+8 || strings.Contains(text, "\x1b") {
		r.t.Errorf("not one line of text: %q", text)
	}
	return code, text + stderr.String()
}

func (r *robot) want(code int, reason string, name, d string) {
	r.t.Helper()
	if got, said := r.ask(name, d); got != code || !strings.Contains(said, reason) {
		r.t.Errorf("%s@%s: exit code %d, %q; want %d, %q", name, d, got, said, code, reason)
	}
}

func TestJudgements(t *testing.T) {
	r := newRobot(t)
	for _, c := range []struct {
		code         int
		reason       string
		name, digest string
	}{
		{0, "active release of plant-7, generation 7", app + ":v2", d("v2")},
		{0, "active release", app + "@" + d("v2"), d("v2")},
		{0, "kept release", app + ":v1", d("v1")},
		{0, "active release", "relay.plant:5000/" + app + ":v2", d("v2")},
		{1, "no release at this site has " + app, app + ":v3", d("v3")},
		{1, "is an image of ghcr.io/acme/shell and not of " + app, app + ":v2", d("shell")},
		{1, "no release", app + ":v2", "sha512:" + strings.Repeat("a", 128)},
		{1, "resolved to", app + "@" + d("v2"), d("v1")},
		{1, "want a SHA-256 or SHA-512 digest", app, "md5:d41d8cd98f00b204e9800998ecf8427e"},
		{1, "want a SHA-256 or SHA-512 digest", app, strings.TrimPrefix(d("v2"), "sha256:")},
		{1, "is an image of", "other.plant:5000/" + app, d("v2")},
		{1, "want host/path", "robot-app:v2", d("v2")},
		{1, "want host/path", "ghcr.io/\x1b[2J", d("v2")},
		{0, "needs no list", pause + ":3.6", d("anything")},
		{0, "needs no list", "relay.plant:5000/" + pause + ":3.6", d("anything")},
		{1, "no release", pause + "d:3.6", d("anything")},
		{1, "no release", pause + "/more:3.6", d("anything")},
		{0, "needs no list", "registry.k8s.io/e2e/agnhost", d("e2e")},
		{1, "no release", "registry.k8s.io/e2e/agnhost", d("other")},
		{1, "no release", "registry.k8s.io/e2e", d("e2e")},
	} {
		r.want(c.code, c.reason, c.name, c.digest)
	}
	r.config["kept"] = "refuse"
	r.configure()
	r.want(1, "not active any more", app, d("v1"))
	r.want(0, "active", app, d("v2"))
}

func TestOlderListsAreRefused(t *testing.T) {
	r := newRobot(t)
	r.want(0, "generation 7", app, d("v2"))
	r.give(list(8), key(1))
	r.want(0, "generation 8", app, d("v2"))
	r.give(list(7), key(1))
	r.want(1, "generation 7 is older than generation 8", app, d("v2"))
	r.want(0, "needs no list", pause, d("x"))
	r.give(list(8), key(1))
	r.want(0, "generation 8", app, d("v2"))

	for name, content := range map[string]string{"cut off": `{"apiVersion":"plimsoll.all`, "empty": "", "zeroes": "\x00\x00\x00"} {
		r.write("state/seen.json", []byte(content))
		if code, said := r.ask(app, d("v2")); code != 1 || !strings.Contains(said, "state") {
			t.Errorf("%s: exit code %d, %s", name, code, said)
		}
	}
}

// Whoever is asked while lists go on, what was seen never goes back and no good list is taken for an old one.
func TestVerifiersAtOnce(t *testing.T) {
	r := newRobot(t)
	const last = 30
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 40 {
				if code, said := r.ask(app, d("v2")); code != 0 {
					t.Errorf("exit code %d, %s", code, said)
				}
			}
		})
	}
	for g := uint64(8); g <= last; g++ {
		data, err := allowlist.Sign(list(g), key(1))
		if err == nil {
			err = os.WriteFile(r.path("next"), data, 0o644)
		}
		if err == nil {
			err = os.Rename(r.path("next"), r.path("list"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	r.want(0, "generation 30", app, d("v2"))
	seen, err := loadSeen(r.path("state/seen.json"))
	if err != nil || len(seen.Highest) != 1 || seen.Highest[0].Generation != last {
		t.Errorf("%+v, %v", seen, err)
	}
}

func TestReadOnlyRobotsPull(t *testing.T) {
	r := newRobot(t)
	r.config["state"] = "/proc/no/state.json"
	r.configure()
	r.want(0, "what was seen cannot be written", app, d("v2"))
}

func TestListsThatDoNotCount(t *testing.T) {
	for name, c := range map[string]struct {
		reason string
		spoil  func(*robot)
	}{
		"no list":    {"no such file", func(r *robot) { os.Remove(r.path("list")) }},
		"empty list": {"not a DSSE envelope", func(r *robot) { r.write("list", nil) }},
		"huge list": {"the limit is", func(r *robot) {
			if err := os.Truncate(r.path("list"), 1<<40); err != nil {
				r.t.Fatal(err)
			}
		}},
		"pipe":      {"no regular file", func(r *robot) { os.Remove(r.path("list")); r.must(syscall.Mkfifo(r.path("list"), 0o644)) }},
		"folder":    {"no regular file", func(r *robot) { os.Remove(r.path("list")); r.must(os.Mkdir(r.path("list"), 0o755)) }},
		"endless":   {"no regular file", func(r *robot) { os.Remove(r.path("list")); r.must(os.Symlink("/dev/zero", r.path("list"))) }},
		"other key": {"which is not trusted", func(r *robot) { r.give(list(7), key(2)) }},
		"flipped": {"did not sign this", func(r *robot) {
			data, err := os.ReadFile(r.path("list"))
			r.must(err)
			i := bytes.Index(data, []byte(`"payload":"`)) + 500
			data[i] ^= 1
			r.write("list", data)
		}},
		"other site": {"it is for site plant-8", func(r *robot) {
			l := list(7)
			l.Site = "plant-8"
			r.give(l, key(1))
		}},
		"over": {"it was good until", func(r *robot) {
			l := list(7)
			l.NotAfter = "2026-03-02T10:00:00Z"
			r.give(l, key(1))
		}},
		"state is a link": {"symbolic link", func(r *robot) {
			r.must(os.Mkdir(r.path("state"), 0o755))
			r.must(os.Symlink(r.path("list"), r.path("state/seen.json")))
		}},
		"state of everybody": {"others than its owner", func(r *robot) {
			r.must(os.Mkdir(r.path("state"), 0o755))
			r.write("state/seen.json", []byte(`{}`))
			r.must(os.Chmod(r.path("state/seen.json"), 0o666))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRobot(t)
			c.spoil(r)
			r.want(1, c.reason, app, d("v2"))
			r.config["mode"] = "warn"
			r.configure()
			r.want(0, "would be refused", app, d("v2"))
			r.want(0, "would be refused", app, d("stranger"))
		})
	}
}

func (r *robot) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func TestConfigurationsThatDoNotCount(t *testing.T) {
	set := func(name string, value any) func(*robot) {
		return func(r *robot) { r.config[name] = value; r.configure() }
	}
	text := func(old, with string) func(*robot) {
		return func(r *robot) {
			data, err := os.ReadFile(r.path("config"))
			r.must(err)
			if !bytes.Contains(data, []byte(old)) {
				r.t.Fatalf("%q is not in %s", old, data)
			}
			r.write("config", bytes.Replace(data, []byte(old), []byte(with), 1))
		}
	}
	for name, spoil := range map[string]func(*robot){
		"none": func(r *robot) { r.must(os.Remove(r.path("config"))) },
		"link": func(r *robot) {
			r.must(os.Rename(r.path("config"), r.path("c")))
			r.must(os.Symlink(r.path("c"), r.path("config")))
		},
		"pipe":               func(r *robot) { r.must(os.Remove(r.path("config"))); r.must(syscall.Mkfifo(r.path("config"), 0o644)) },
		"folder":             func(r *robot) { r.must(os.Remove(r.path("config"))); r.must(os.Mkdir(r.path("config"), 0o755)) },
		"everybody writes":   func(r *robot) { r.must(os.Chmod(r.path("config"), 0o646)) },
		"the group writes":   func(r *robot) { r.must(os.Chmod(r.path("config"), 0o664)) },
		"huge":               func(r *robot) { r.must(os.Truncate(r.path("config"), 1<<40)) },
		"empty":              func(r *robot) { r.write("config", nil) },
		"duplicate key":      text(`"mode"`, `"mode": "warn", "mode"`),
		"key of other case":  text(`"mode"`, `"Mode": "warn", "mode"`),
		"unknown key":        text(`"mode"`, `"modes": "x", "mode"`),
		"trailing data":      func(r *robot) { data, _ := os.ReadFile(r.path("config")); r.write("config", append(data, "{}"...)) },
		"no mode":            set("mode", ""),
		"mode off":           set("mode", "off"),
		"no keys":            set("keys", []string{}),
		"bad key":            set("keys", []string{"MCowBQYDK2VwAyEA"}),
		"many keys":          set("keys", slices.Repeat([]string{allowlist.FormatKey(key(1).Public().(ed25519.PublicKey))}, 17)),
		"no list":            set("list", ""),
		"list not whole":     set("list", "list"),
		"state not whole":    set("state", "seen"),
		"no site":            set("site", ""),
		"kept":               set("kept", "maybe"),
		"mirror with a path": set("mirrors", []string{"relay:5000/x"}),
		"a whole registry":   set("unlisted", []string{"docker.io/"}),
		"everything":         set("unlisted", []string{"/"}),
		"empty exception":    set("unlisted", []string{""}),
		"exception's tag":    set("unlisted", []string{pause + ":3.6"}),
		"exception's digest": set("unlisted", []string{pause + "@sha256:00"}),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRobot(t)
			r.config["mode"] = "warn" // what cannot be read does not say that it only warns
			r.configure()
			spoil(r)
			r.want(exitTrouble, "configuration", app, d("v2"))
		})
	}
	t.Run("state is the list", func(t *testing.T) {
		r := newRobot(t)
		set("state", r.path("list"))(r)
		r.want(exitTrouble, "the same file", app, d("v2"))
	})
}

func TestOtherUsersConfiguration(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	r := newRobot(t)
	r.must(os.Chown(r.path("config"), 4321, 0))
	r.want(exitTrouble, "owned by user 4321", app, d("v2"))
}

// endless is a standard input without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestStandardInput(t *testing.T) {
	r := newRobot(t)
	v2 := descriptor(d("v2"))
	input := slices.Replace(arguments(app, d("v2")), 5, 6, typeInput)
	for name, c := range map[string]struct {
		code   int
		reason string
		args   []string
		stdin  io.Reader
	}{
		"as containerd gives it": {0, "allowed", arguments(app, d("v2")), strings.NewReader(v2)},
		"other image":            {1, "the arguments say", arguments(app, d("v2")), strings.NewReader(descriptor(d("v1")))},
		"two digests":            {1, "duplicate key", arguments(app, d("v2")), strings.NewReader(strings.Replace(v2, `"size"`, `"digest":"`+d("v1")+`","size"`, 1))},
		"no digest":              {1, "without a digest", arguments(app, d("v2")), strings.NewReader("{}")},
		"nothing":                {1, "EOF", arguments(app, d("v2")), strings.NewReader("")},
		"no JSON":                {1, "invalid character", arguments(app, d("v2")), strings.NewReader("sha256")},
		"a list":                 {1, "cannot unmarshal", arguments(app, d("v2")), strings.NewReader("[]")},
		"endless":                {1, "more than", arguments(app, d("v2")), endless{}},
		"breaks":                 {1, "broken", arguments(app, d("v2")), io.MultiReader(strings.NewReader("{"), broken{})},
		"unknown type":           {1, "this version knows", slices.Replace(arguments(app, d("v2")), 5, 6, "text/plain"), strings.NewReader(v2)},
		"no type":                {1, "this version knows", arguments(app, d("v2"))[:4], strings.NewReader(v2)},
		"at run":                 {0, "allowed", append(input, "-operation", "run"), strings.NewReader(`{"operation":"run","descriptor":` + v2 + `}`)},
		"at run, other image":    {1, "the arguments say", input, strings.NewReader(`{"descriptor":` + descriptor(d("v1")) + `}`)},
		"no arguments":           {2, "want -name", nil, strings.NewReader(v2)},
		"digest twice":           {2, "given twice", append(arguments(app, d("v2")), "-digest", d("v1")), strings.NewReader(v2)},
		"unknown argument":       {2, "not defined", append(arguments(app, d("v2")), "-config", "x"), strings.NewReader(v2)},
		"one too many":           {2, "too many", append(arguments(app, d("v2")), "x"), strings.NewReader(v2)},
	} {
		if code, said := r.run(c.args, c.stdin, now); code != c.code || !strings.Contains(said, c.reason) {
			t.Errorf("%s: exit code %d, %q; want %d, %q", name, code, said, c.code, c.reason)
		}
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("broken") }

func TestStandardInputWithoutAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := io.Pipe()
		start := time.Now()
		err := checkStdin(in, request{digest: d("v2"), mediaType: typeDescriptor}, stdinTime)
		if err == nil || !strings.Contains(err.Error(), "no end") || time.Since(start) != stdinTime {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		out.Close() //nolint:errcheck // lets the reader go
	})
}

func TestCheckAndVersion(t *testing.T) {
	r := newRobot(t)
	if code, said := r.run([]string{"-check"}, endless{}, now); code != 0 || !strings.Contains(said, "generation 7 (highest seen 0)") {
		t.Errorf("exit code %d, %s", code, said)
	}
	if _, err := os.Stat(r.path("state")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a check was remembered: %v", err)
	}
	r.must(os.Remove(r.path("list")))
	if code, said := r.run([]string{"-check"}, endless{}, now); code != exitTrouble {
		t.Errorf("exit code %d, %s", code, said)
	}
	if code, said := r.run([]string{"-version"}, endless{}, now); code != 0 || !strings.Contains(said, version) {
		t.Errorf("exit code %d, %s", code, said)
	}
}

// The bar: half of the answers within 20 ms, with a list of a thousand images, in little memory, as a process.
func TestProcessIsFastAndSmall(t *testing.T) {
	r := newRobot(t)
	var images []allowlist.Image
	for i := range 1000 {
		images = append(images, allowlist.Image{Repository: fmt.Sprintf("ghcr.io/acme/app-%02d", i%50), Digest: digest.FromString(fmt.Sprint(i)), Active: i%2 == 0})
	}
	l := list(9)
	l.Repositories = allowlist.Collect(images)
	r.give(l, key(1))
	program := r.path("verifier")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.configPath="+r.path("config"), "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var took []time.Duration
	var memory int64
	for i := range 41 {
		name, of := "ghcr.io/acme/app-00:v1", d(fmt.Sprint(i%20*50))
		cmd := exec.Command(program, arguments(name, of)...)
		cmd.Stdin = strings.NewReader(descriptor(of))
		start := time.Now()
		out, err := cmd.CombinedOutput()
		if took = append(took, time.Since(start)); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		memory = max(memory, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
	}
	slices.Sort(took)
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r.want(0, "allowed", "ghcr.io/acme/app-00:v1", d("0"))
	runtime.ReadMemStats(&after)
	allocated := after.TotalAlloc - before.TotalAlloc
	// The kernel counts for a child what its parent had when it forked: what is resident is only told.
	t.Logf("p50 %s, p95 %s, %d KiB allocated, at most %d KiB resident, program of %d KiB", took[20], took[38], allocated>>10, memory, info.Size()>>10)
	if allocated > 8<<20 || info.Size() > 8<<20 {
		t.Errorf("%d bytes allocated, program of %d bytes", allocated, info.Size())
	}
	if took[20] > 200*time.Millisecond { // ten times the bar: this machine may be busy
		t.Errorf("half of the answers took more than %s", took[20])
	}
}

func FuzzParseConfig(f *testing.F) {
	r := newRobot(f)
	data, err := os.ReadFile(r.path("config"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"keys":[],"mode":"warn"}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseConfig(data)
		if err != nil {
			return
		}
		if len(c.keys) == 0 || c.Mode != modeEnforce && c.Mode != modeWarn || !filepath.IsAbs(c.List) || !filepath.IsAbs(c.State) {
			t.Errorf("%q gives %+v", data, c)
		}
		for _, e := range c.unlisted {
			if !strings.Contains(e.repository, "/") || e.covers("", "") {
				t.Errorf("%q excepts %+v", data, e)
			}
		}
	})
}

func FuzzStdin(f *testing.F) {
	f.Add([]byte(descriptor(d("v2"))), false)
	f.Add([]byte(`{"descriptor":`+descriptor(d("v2"))+`}`), true)
	f.Add([]byte(`{`), false)
	f.Fuzz(func(t *testing.T, data []byte, input bool) {
		asked := request{digest: d("v2"), mediaType: typeDescriptor}
		if input {
			asked.mediaType = typeInput
		}
		if compareStdin(data, asked) == nil && !input && !bytes.Contains(data, []byte("sha256")) && !bytes.Contains(data, []byte(`\u`)) {
			t.Errorf("%q describes %s", data, asked.digest)
		}
	})
}
