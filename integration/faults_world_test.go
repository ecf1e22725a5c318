package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/attest/sign"
	"github.com/plimsoll/plimsoll/builder"
	"github.com/plimsoll/plimsoll/builder/origin"
	"github.com/plimsoll/plimsoll/builder/spec"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
	"github.com/plimsoll/plimsoll/relay"
	"github.com/plimsoll/plimsoll/relay/identity"
	"github.com/plimsoll/plimsoll/relay/journal"
)

// faultChannel is the name of the bundle, and so of the channel, of the fault tests.
const faultChannel = "small"

// faultReleases are three small releases, each with an image, a file and a Git repository of which it brings what is new.
// The first has another repository, of a size that makes it worth while to collect.
type faultReleases struct {
	dir string
	key []byte // PEM
}

func (w *faultReleases) bundle(version string) string {
	return filepath.Join(w.dir, "bundles", version)
}

// newFaultReleases builds the releases in dir.
func newFaultReleases(t *testing.T, dir string) *faultReleases {
	t.Helper()
	w := &faultReleases{dir: dir}
	pair, err := sign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := sign.LoadSigner(pair.Private, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.key = pair.Public
	images := filepath.Join(dir, "images")
	written, err := layout.Write(images, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	var since *builder.Predecessor
	for _, version := range []string{"v1", "v2", "v3"} {
		w.commit(t, version)
		if err := written.AppendImage(tinyImage(t, "amd64", version), layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": version})); err != nil {
			t.Fatal(err)
		}
		since = w.build(t, version, signer, since)
	}
	return w
}

// commit makes a commit and a tag for a version, in the repository of the releases.
func (w *faultReleases) commit(t *testing.T, version string) {
	t.Helper()
	script := `set -eu; mkdir -p "$1/git"; cd "$1/git"; [ -d .git ] || git init -q -b main .
		[ -d ../big ] || { git init -q -b main ../big; head -c 1500000 /dev/urandom > ../big/f; git -C ../big add -A; git -C ../big commit -q -m big; }
		echo "$2" >> values.yaml; mkdir -p "dir-$2"; echo "$2" > "dir-$2/f"; git add -A; git commit -q -m "$2"; git tag -a -m "$2" "$2"`
	cmd := exec.Command("sh", "-c", script, "sh", w.dir, version)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b", "GIT_AUTHOR_DATE=1700000000 +0000", "GIT_COMMITTER_DATE=1700000000 +0000")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func (w *faultReleases) build(t *testing.T, version string, signer *sign.Signer, since *builder.Predecessor) *builder.Predecessor {
	t.Helper()
	ctx := t.Context()
	if err := os.WriteFile(filepath.Join(w.dir, "notes.md"), []byte("notes of "+version+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	big := ""
	if version == "v1" {
		big = "    - {url: ./big, as: github.com/acme/big}\n"
	}
	data := []byte(`apiVersion: plimsoll.dev/v1
kind: Bundle
metadata: {name: ` + faultChannel + `, version: ` + version + `, created: "2026-01-15T09:00:00Z"}
spec:
  images:
    - {ref: "oci:images:` + version + `", as: "ghcr.io/acme/app:stable"}
  git:
    - {url: ./git, as: github.com/acme/app, refs: [main, "v*"]}
` + big + `  files:
    - {path: notes.md}
`)
	b, err := spec.Parse(filepath.Join(w.dir, "bundle.yaml"), data)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := media.OpenSink(ctx, w.bundle(version), media.Options{})
	if err != nil {
		t.Fatal(err)
	}
	res, err := builder.Build(ctx, sink, builder.Options{
		Spec: b, SpecData: data, Since: since, Registries: &origin.Registries{}, Release: sign.Signers{signer}, TempDir: t.TempDir(),
	})
	if err := errors.Join(err, sink.Close()); err != nil {
		t.Fatal(err)
	}
	src, err := media.OpenSource(ctx, w.bundle(version), media.Options{})
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := bundle.Load(ctx, src, res.Root)
	if err != nil {
		t.Fatal(err)
	}
	return &builder.Predecessor{Bundle: loaded, Source: src}
}

// step is one command on a data folder.
type step struct {
	Do      string `json:"do"`                // import, stage, activate, rollback, pin, gc, keep
	Version string `json:"version,omitempty"` //
}

func (s step) String() string { return strings.TrimSpace(s.Do + " " + s.Version) }

// run opens the data folder, as a command does, and takes the step. It is what is put on trial.
func (s step) run(ctx context.Context, data, bundles string) error {
	r, err := openFaulty(ctx, data)
	if err != nil {
		return err
	}
	return s.take(ctx, r, bundles)
}

func (s step) take(ctx context.Context, r *relay.Relay, bundles string) (err error) {
	switch s.Do {
	case "import", "stage":
		src, err := media.OpenSource(ctx, filepath.Join(bundles, s.Version), media.Options{})
		if err != nil {
			return err
		}
		defer src.Close() //nolint:errcheck // only read from
		o := relay.ImportOptions{From: s.Version, StageOnly: s.Do == "stage"}
		if o.Policy.ReleaseKeys, err = r.TrustedKeys(); err != nil {
			return err
		}
		_, err = r.Import(ctx, src, o)
		return err
	case "activate":
		_, err = r.Activate(ctx, faultChannel, s.Version)
	case "rollback":
		_, err = r.Rollback(ctx, faultChannel, s.Version)
	case "pin":
		_, err = r.Pin(ctx, faultChannel, s.Version, "a test")
	case "drop":
		_, err = r.Drop(ctx, faultChannel, s.Version, relay.DropOptions{})
	case "gc":
		_, err = r.GC(ctx, relay.GCOptions{})
	case "keep":
		_, err = r.ChangeSettings(ctx, func(set *relay.Settings) error { set.Keep = 2; return nil })
	default:
		err = fmt.Errorf("step %q", s.Do)
	}
	return err
}

// openFaulty opens a data folder. One worker makes the order of changes the same each time.
func openFaulty(ctx context.Context, data string) (*relay.Relay, error) {
	id, err := identity.Open(filepath.Join(data, identity.Folder))
	if err != nil {
		return nil, err
	}
	j, err := journal.Open(filepath.Join(data, journal.Folder), journal.Options{Identity: id})
	if err != nil {
		return nil, err
	}
	return relay.Open(ctx, data, relay.Options{Workers: 1, Journal: j})
}

// faultWorkerVariable makes this test binary a process that takes steps: its value is the folder with the bundles.
const faultWorkerVariable = "PLIMSOLL_FAULTS_WORKER"

type faultJob struct {
	Step  step   `json:"step"`
	Data  string `json:"data"`
	Again bool   `json:"again"` // take the step once more if it fails, with the relay that it failed with
}

func (j faultJob) run(ctx context.Context, bundles string) error {
	r, err := openFaulty(ctx, j.Data)
	if err != nil && j.Again {
		r, err = openFaulty(ctx, j.Data)
	}
	if err != nil {
		return err
	}
	if err = j.Step.take(ctx, r, bundles); err != nil && j.Again {
		err = j.Step.take(ctx, r, bundles)
	}
	return err
}

// TestFaultsWorker is no test: it is the process that the fault tests run on their file system, and kill.
func TestFaultsWorker(t *testing.T) {
	bundles := os.Getenv(faultWorkerVariable)
	if bundles == "" {
		t.Skip("only for the fault tests")
	}
	jobs, answers := json.NewDecoder(os.NewFile(3, "jobs")), json.NewEncoder(os.NewFile(4, "answers"))
	for {
		var job faultJob
		if err := jobs.Decode(&job); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		text := ""
		if err := job.run(t.Context(), bundles); err != nil {
			text = err.Error()
		}
		if err := answers.Encode(text); err != nil {
			t.Fatal(err)
		}
	}
}

// faultWorker is such a process.
type faultWorker struct {
	cmd     *exec.Cmd
	jobs    *os.File
	answers *bufio.Reader
	closer  io.Closer
}

func startFaultWorker(bundles string) (*faultWorker, error) {
	jobsRead, jobsWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	answersRead, answersWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	w := &faultWorker{cmd: exec.Command(os.Args[0], "-test.run=^TestFaultsWorker$", "-test.timeout=0"), jobs: jobsWrite, answers: bufio.NewReader(answersRead), closer: answersRead}
	w.cmd.Env = append(os.Environ(), faultWorkerVariable+"="+bundles)
	w.cmd.ExtraFiles = []*os.File{jobsRead, answersWrite}
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = w.cmd.Start()
	return w, errors.Join(err, jobsRead.Close(), answersWrite.Close())
}

// errWorkerDied says that the worker was killed before it answered.
var errWorkerDied = errors.New("the worker died")

// do does a job, and gives its error.
func (w *faultWorker) do(job faultJob) error {
	line, err := json.Marshal(job)
	if err != nil {
		return err
	}
	if _, err := w.jobs.Write(append(line, '\n')); err != nil {
		return errors.Join(errWorkerDied, err)
	}
	answer, err := w.answers.ReadBytes('\n')
	if err != nil {
		return errWorkerDied
	}
	var text string
	if err := json.Unmarshal(answer, &text); err != nil || text == "" {
		return err
	}
	return errors.New(text)
}

// kill kills the worker; its group is its own. Git processes have sessions of their own and are left to die of the disk.
func (w *faultWorker) kill() { syscall.Kill(-w.cmd.Process.Pid, syscall.SIGKILL) } //nolint:errcheck // it may be dead

// close ends the worker and waits for it.
func (w *faultWorker) close() {
	w.jobs.Close()   //nolint:errcheck // the end of its input ends it
	w.cmd.Wait()     //nolint:errcheck // killed or not
	w.closer.Close() //nolint:errcheck // read from only
}

// copyFolder copies a folder with the times of its files, by which git's indexes are judged.
func copyFolder(dst, src string) error {
	return filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		to := filepath.Join(dst, rel)
		info, err := d.Info()
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Mkdir(to, info.Mode().Perm())
		}
		data, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(to, data, info.Mode().Perm())
		}
		if err != nil {
			return err
		}
		return os.Chtimes(to, time.Time{}, info.ModTime())
	})
}

// served pulls everything that the relay serves of the active release as a robot would, and gives its version.
func servedWhole(ctx context.Context, r *relay.Relay) (version string, err error) {
	s, err := r.NewServer(ctx, relay.ServerOptions{})
	if err != nil {
		return "", err
	}
	gen := s.Generation()
	if len(gen.Problems) > 0 {
		return "", fmt.Errorf("problems: %v", gen.Problems)
	}
	if len(gen.Active.Channels) == 0 {
		return "", nil
	}
	get := func(path string, want digest.Digest) ([]byte, error) {
		rec := httptest.NewRecorder()
		s.ServeHTTP(rec, httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil))
		if rec.Code != http.StatusOK {
			return nil, fmt.Errorf("GET %s: %d %s", path, rec.Code, rec.Body)
		}
		if got := digest.FromBytes(rec.Body.Bytes()); want != "" && got != want {
			return nil, fmt.Errorf("GET %s: %s", path, got)
		}
		return rec.Body.Bytes(), nil
	}
	for _, repository := range gen.Registry.Repositories() {
		for _, tag := range gen.Registry.Tags(repository) {
			desc, _ := gen.Registry.Resolve(repository, tag)
			data, err := get("/v2/"+repository+"/manifests/"+tag, desc.Digest)
			if err != nil {
				return "", err
			}
			var m struct {
				Config struct{ Digest digest.Digest }
				Layers []struct{ Digest digest.Digest }
			}
			if err := json.Unmarshal(data, &m); err != nil {
				return "", err
			}
			for _, layer := range append(m.Layers, m.Config) {
				if _, err := get("/v2/"+repository+"/blobs/"+layer.Digest.String(), layer.Digest); err != nil {
					return "", err
				}
			}
		}
	}
	refs, err := get("/github.com/acme/app.git/info/refs?service=git-upload-pack", "")
	if err != nil {
		return "", err
	}
	version = gen.Active.Channels[0].Release.Version
	if !strings.Contains(string(refs), "refs/tags/"+version) {
		return "", fmt.Errorf("git does not serve the tag of %s", version)
	}
	return version, nil
}
