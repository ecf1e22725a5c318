package policy_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/plimsoll/plimsoll/attest"
	"github.com/plimsoll/plimsoll/attest/policy"
)

// packages is an SPDX document of about n bytes, in the shape of a real one.
func packages(n int) string {
	var b strings.Builder
	b.WriteString(strings.Split(spdx, `"packages"`)[0] + `"packages":[`)
	for i := 0; b.Len() < n; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"SPDXID":"SPDXRef-Package-deb-libc6-%d","name":"libc6","versionInfo":"2.36-9+deb12u%d","supplier":"Organization: Debian","downloadLocation":"NOASSERTION","filesAnalyzed":false,"licenseConcluded":"NOASSERTION","licenseDeclared":"GPL-2.0-only AND LGPL-2.1-or-later","externalRefs":[{"referenceCategory":"PACKAGE-MANAGER","referenceType":"purl","referenceLocator":"pkg:deb/debian/libc6@2.36?arch=amd64"}]}`, i, i)
	}
	b.WriteString("]}")
	return b.String()
}

// peak measures the largest heap while fn runs, beyond what was there before.
func peak(fn func()) uint64 {
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	var most atomic.Uint64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond) // more often would be most of the time
		defer tick.Stop()
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			if m.HeapAlloc > before.HeapAlloc {
				most.Store(max(most.Load(), m.HeapAlloc-before.HeapAlloc))
			}
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	fn()
	close(stop)
	<-done
	return most.Load()
}

// BenchmarkGather is a release of 200 images with 3 statements each. Its peak is that of a process of its own.
func BenchmarkGather(b *testing.B) {
	k := newKeys(b)
	w := fleet(b, k)
	var bytes int64
	start := time.Now()
	for _, data := range w.blobs {
		sha256.Sum256(data)
		bytes += int64(len(data))
	}
	hashing := time.Since(start)
	var elsewhere measured
	if _, err := resident("VmHWM"); err == nil {
		elsewhere = gatherElsewhere(b, k)
	}
	b.SetBytes(bytes)
	var f *policy.Facts
	cpu := cpuTime(b)
	b.ResetTimer()
	for b.Loop() {
		f = w.gather(b, k)
	}
	b.StopTimer()
	b.ReportMetric(float64((cpuTime(b)-cpu).Milliseconds())/float64(b.N), "ms-cpu/op") // on a busy machine the time says little
	b.ReportMetric(float64(hashing.Milliseconds()), "ms-hashing")
	b.ReportMetric(float64(elsewhere.Peak)/(1<<20), "MiB-rss")
	for _, i := range f.Images {
		if i.SBOM.Status != policy.OK || i.Vuln.Status != policy.OK || i.Provenance.Status != policy.OK {
			b.Fatalf("%+v", i)
		}
	}
}

// generated gives the bytes of a Sigstore bundle with a huge SBOM without holding them.
type generated struct {
	before, after string
	statement     string // up to the packages
	unit          string
	count         int
	end           string
}

func (g *generated) payload() io.Reader {
	readers := []io.Reader{strings.NewReader(g.statement)}
	return io.MultiReader(append(readers, &repeated{unit: []byte(g.unit), left: g.count}, strings.NewReader(g.end))...)
}

func (g *generated) reader() io.Reader {
	r, pw := io.Pipe()
	go func() {
		enc := base64.NewEncoder(base64.StdEncoding, pw)
		_, err := io.Copy(enc, g.payload())
		if err == nil {
			err = enc.Close()
		}
		pw.CloseWithError(err)
	}()
	return io.MultiReader(strings.NewReader(g.before), r, strings.NewReader(g.after))
}

type repeated struct {
	unit []byte
	left int
	at   int
}

func (r *repeated) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.unit[r.at:])
	if r.at += n; r.at == len(r.unit) {
		r.at = 0
		r.left--
	}
	return n, nil
}

// An SBOM as large as a bundle may be is read in a few megabytes by an ECDSA key, and in one buffer by an Ed25519 key.
func TestHugeSBOM(t *testing.T) {
	k := newKeys(t)
	for _, c := range []struct {
		by    signer
		limit uint64
	}{{k.attestation, 8 << 20}, {k.second, 40 << 20}} {
		w := newWorld()
		image := w.image("app")
		g := &generated{unit: `{"name":"libc6","versionInfo":"2.36-9","licenseDeclared":"GPL-2.0-only AND LGPL-2.1-or-later"},`, end: `{}]}}`,
			statement: fmt.Sprintf(`{"_type":"%s","subject":[{"digest":{"sha256":"%s"}}],"predicateType":"%s","predicate":{"spdxVersion":"SPDX-2.3","creationInfo":{"created":"2026-02-01T00:00:00Z"},"packages":[`,
				attest.StatementType, image.Digest.Encoded(), typeSPDX)}
		g.count = (23 << 20) / len(g.unit)
		// The signature is over the whole message; it is made before the measurement.
		payload, err := io.ReadAll(g.payload())
		if err != nil {
			t.Fatal(err)
		}
		sig, err := json.Marshal(c.by.sign(t, dsse.PAE(attest.PayloadTypeInToto, payload)))
		if err != nil {
			t.Fatal(err)
		}
		g.before = fmt.Sprintf(`{"mediaType":"%s","verificationMaterial":{"publicKey":{"hint":""}},"dsseEnvelope":{"payload":"`, attest.MediaTypeBundle)
		g.after = fmt.Sprintf(`","payloadType":"%s","signatures":[{"sig":%s}]}}`, attest.PayloadTypeInToto, sig)
		payload = nil
		hash := sha256.New()
		size, err := io.Copy(hash, g.reader())
		if err != nil {
			t.Fatal(err)
		}
		layer := ocispec.Descriptor{MediaType: attest.MediaTypeBundle, Digest: digest.NewDigest(digest.SHA256, hash), Size: size}
		w.made[layer.Digest] = g.reader
		w.manifest(t, image, typeSPDX, layer)
		var f *policy.Facts
		most := peak(func() { f = w.gather(t, k) })
		if i := f.Images[0].SBOM; i.Status != policy.OK || i.Packages != int64(g.count)+1 {
			t.Errorf("%+v", i)
		}
		t.Logf("%d MB: %.1f MiB at the peak", size/1e6, float64(most)/(1<<20))
		if most > c.limit {
			t.Errorf("%d bytes at the peak, the limit is %d", most, c.limit)
		}
	}
}
