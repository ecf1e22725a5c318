package policy_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/attest/policy"
	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/bundle/media"
)

// What the verification of a release with 200 images and 3 statements each may take, beside hashing its blobs.
const (
	memoryLimit = 64 << 20
	timeLimit   = 2 * time.Second
	memoryDir   = "PLIMSOLL_TEST_POLICY_MEMORY" // of the process that is measured
)

// fleet is 200 images with an SBOM of 200 kB, a scan and provenance each.
func fleet(t testing.TB, k keyring) *world {
	w := newWorld()
	sbom := packages(200 << 10)
	for i := range 200 {
		image := w.image(fmt.Sprintf("app-%d", i))
		w.carry(image, k.attestation.attest(t, typeSPDX, sbom, image))
		w.carry(image, k.attestation.attest(t, typeCosignVuln, trivy, image))
		w.carry(image, k.attestation.attest(t, typeProvenance, provenance, image))
	}
	return w
}

// onDisk is a bundle's evidence in a folder.
type onDisk string

func (d onDisk) Open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return os.Open(filepath.Join(string(d), desc.Digest.Encoded()))
}

func (d onDisk) Referrers(context.Context, digest.Digest) ([]media.Referrer, error) { return nil, nil }

// measured is what a process says of its Gather.
type measured struct {
	Before, Peak          int64 // bytes resident: before Gather, and at the most
	Wall, CPU, HashingCPU time.Duration
}

// TestPeakMemory measures the resident memory of a process that does nothing but gather the evidence of a release. The
// heap of this one is full of test data, by which the collector would measure.
func TestPeakMemory(t *testing.T) {
	k := newKeys(t)
	if dir := os.Getenv(memoryDir); dir != "" {
		report, err := json.Marshal(measureGather(t, dir, k))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "report"), report, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if _, err := resident("VmHWM"); err != nil || testing.Short() || raced() {
		t.Skip("the memory of a process is not known here")
	}
	m := gatherElsewhere(t, k)
	t.Logf("%.1f MiB at the peak, %.1f before; %v of CPU and %v to hash the blobs, in %v", float64(m.Peak)/(1<<20), float64(m.Before)/(1<<20),
		m.CPU, m.HashingCPU, m.Wall)
	if m.Peak > memoryLimit {
		t.Errorf("%d bytes resident, the limit is %d", m.Peak, memoryLimit)
	}
	// Of the processor's time: others use this machine, too.
	if m.CPU-m.HashingCPU > timeLimit {
		t.Errorf("%v beside %v of hashing, the limit is %v", m.CPU-m.HashingCPU, m.HashingCPU, timeLimit)
	}
}

func gatherElsewhere(t testing.TB, k keyring) measured {
	dir := t.TempDir()
	w := fleet(t, k)
	for d, data := range w.blobs {
		if err := os.WriteFile(filepath.Join(dir, d.Encoded()), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := json.Marshal(w.b)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bundle"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestPeakMemory$")
	cmd.Env = append(os.Environ(), memoryDir+"="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(filepath.Join(dir, "report"))
	if err != nil {
		t.Fatal(err)
	}
	var m measured
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func measureGather(t *testing.T, dir string, k keyring) measured {
	data, err := os.ReadFile(filepath.Join(dir, "bundle"))
	if err != nil {
		t.Fatal(err)
	}
	var b bundle.Bundle
	if err := json.Unmarshal(data, &b); err != nil {
		t.Fatal(err)
	}
	var m measured
	if m.Before, err = resident("VmHWM"); err != nil {
		t.Fatal(err)
	}
	start, cpu := time.Now(), cpuTime(t)
	f, err := policy.Gather(t.Context(), onDisk(dir), &b, k.trusted(), now)
	m.Wall, m.CPU = time.Since(start), cpuTime(t)-cpu
	if err != nil {
		t.Fatal(err)
	}
	if m.Peak, err = resident("VmHWM"); err != nil {
		t.Fatal(err)
	}
	if len(f.Images) != 200 {
		t.Fatalf("%d images", len(f.Images))
	}
	for _, i := range f.Images {
		if i.SBOM.Status != policy.OK || i.Vuln.Status != policy.OK || i.Provenance.Status != policy.OK {
			t.Fatalf("%+v", i)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	cpu = cpuTime(t)
	for _, e := range entries {
		file, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(sha256.New(), file)
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
	}
	m.HashingCPU = cpuTime(t) - cpu
	return m
}

// resident reads a size out of Linux's /proc. What getrusage gives for a process includes its parent's before exec.
func resident(field string) (int64, error) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	found := regexp.MustCompile(`(?m)^` + field + `:\s*(\d+) kB$`).FindSubmatch(data)
	if found == nil {
		return 0, fmt.Errorf("no %s in /proc/self/status", field)
	}
	n, err := strconv.ParseInt(string(found[1]), 10, 64)
	return n << 10, err
}

// raced reports whether this is a build with the race detector, which takes several times the memory.
func raced() bool {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return false
	}
	for _, s := range info.Settings {
		if s.Key == "-race" && s.Value == "true" {
			return true
		}
	}
	return false
}

func cpuTime(t testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
