//go:build e2e

package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/internal/s3server"
)

// realS3 is a running server with one bucket, of which every store has a prefix of its own.
type realS3 struct {
	url    string
	prefix atomic.Int32
}

// startS3 starts the server over a folder and waits until it answers.
func startS3(t *testing.T, dir string) *realS3 {
	t.Helper()
	setCredentials(t, fakeKey, fakeSecret)
	if err := os.MkdirAll(filepath.Join(dir, fakeBucket), 0o755); err != nil {
		t.Fatal(err)
	}
	server, err := s3server.Start(dir, t.TempDir(), fakeKey, fakeSecret)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return &realS3{url: server.URL}
}

func (r *realS3) storageURL(more string) string {
	return fmt.Sprintf("s3://%s/run%d?region=%s&path-style=true&chunk-size=5MiB&endpoint=%s%s", fakeBucket, r.prefix.Add(1), fakeRegion, url.QueryEscape(r.url), more)
}

func heavyDrivers(t *testing.T) map[string]func(*testing.T) *Store {
	r := startS3(t, t.TempDir())
	return map[string]func(*testing.T) *Store{"versitygw": func(t *testing.T) *Store { return mustOpen(t, r.storageURL(""), Options{}) }}
}

func mustOpen(t *testing.T, at string, o Options) *Store {
	t.Helper()
	s, err := OpenURL(t.Context(), at, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// mustBeClean wants nothing in the bucket but blobs.
func mustBeClean(t *testing.T, s *Store) {
	t.Helper()
	b := s.place.(*bucket)
	out, err := b.client.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: &b.at.bucket, Prefix: aws.String(b.key("/ingest/"))})
	if err != nil || len(out.Contents) != 0 {
		t.Errorf("%d states are left, %v", len(out.Contents), err)
	}
	ups, err := b.client.ListMultipartUploads(t.Context(), &s3.ListMultipartUploadsInput{Bucket: &b.at.bucket, Prefix: &b.at.prefix})
	if err != nil || len(ups.Uploads) != 0 {
		t.Errorf("%d uploads are left, %v", len(ups.Uploads), err)
	}
}

func TestE2EContinuesAtTheByte(t *testing.T) {
	at := startS3(t, t.TempDir()).storageURL("")
	data, desc := wideBlob()
	for _, n := range []int{5, minChunk, minChunk + 1, wide - 1} {
		if err := mustOpen(t, at, Options{}).Admit(t.Context(), desc, cut(data, n), nil); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
		s := mustOpen(t, at, Options{})
		mustNotHave(t, s, desc.Digest)
		if left := s.Partial(t.Context(), desc.Digest); left != int64(n) {
			t.Errorf("Partial = %d, want %d", left, n)
		}
	}
	src := &source{data: data}
	s := mustOpen(t, at, Options{})
	if err := s.Admit(t.Context(), desc, src.open, nil); err != nil || len(src.offsets) != 1 || src.offsets[0] != wide-1 {
		t.Fatalf("%v; opened at %v", err, src.offsets)
	}
	mustHave(t, s, desc.Digest, data)
	mustBeClean(t, s)
}

// A process that is killed while it admits leaves the whole blob or none.
func TestE2EKilled(t *testing.T) {
	r := startS3(t, t.TempDir())
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var whole, partial int
	for round := range 12 {
		at := r.storageURL("")
		killAt := []int64{rnd.Int64N(largeBlob), largeBlob, largeBlob + 1}[round%3] // or while it completes, or at the end
		cmd, lines := child(t, at)
		for lines.Scan() {
			n, err := strconv.ParseInt(lines.Text(), 10, 64)
			if err != nil || n >= killAt { // "end" is no number
				break
			}
		}
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		_ = cmd.Wait() // "signal: killed" is what was asked for
		s := mustOpen(t, at, Options{})
		left := s.Partial(t.Context(), largeDesc().Digest)
		switch size, err := s.Size(t.Context(), largeDesc().Digest); {
		case err == nil && size == largeBlob:
			whole++
			checkLarge(t, s)
		case errors.Is(err, fs.ErrNotExist):
			partial++
			opened := int64(-1)
			err := s.Admit(t.Context(), largeDesc(), func(offset int64) (io.ReadCloser, error) {
				opened = offset
				return openNumbers(largeBlob)(offset)
			}, nil)
			// This server takes the parts away while it still completes the upload for the process that was killed.
			if err != nil || opened != left && killAt < largeBlob || left%minChunk != 0 {
				t.Errorf("%v; %d bytes were left, the source was opened at %d", err, left, opened)
			}
			checkLarge(t, s)
			mustBeClean(t, s)
		default:
			t.Fatalf("killed at %d: blob of %d bytes, %v", killAt, size, err)
		}
	}
	t.Logf("%d times the whole blob, %d times none", whole, partial)
	if partial == 0 || whole == 0 {
		t.Error("no child was killed before, or none after the end: the test proves too little")
	}
}

func TestE2ESeveralProcesses(t *testing.T) {
	at := startS3(t, t.TempDir()).storageURL("")
	var running []*exec.Cmd
	for range 3 {
		cmd, lines := child(t, at)
		running = append(running, cmd)
		go func() {
			for lines.Scan() {
			}
		}()
	}
	done := 0
	for _, cmd := range running {
		if err := cmd.Wait(); err == nil {
			done++
		}
	}
	s := mustOpen(t, at, Options{})
	if done == 0 { // each may have ended the others' uploads; then the next one does it
		if err := s.Admit(t.Context(), largeDesc(), openNumbers(largeBlob), nil); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d of %d processes succeeded", done, len(running))
	checkLarge(t, s)
}

// The promise between processes rests on this: an upload is not completed with a part that was overwritten.
func TestE2EServerComparesETags(t *testing.T) {
	s := mustOpen(t, startS3(t, t.TempDir()).storageURL(""), Options{})
	b := s.place.(*bucket)
	data, desc := wideBlob()
	in, err := b.ingest(t.Context(), desc)
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	h := desc.Digest.Algorithm().Hash()
	if err := in.begin(t.Context(), h, 0); err != nil {
		t.Fatal(err)
	}
	for rest := data; len(rest) > 0; {
		n := min(int64(len(rest)), in.room())
		h.Write(rest[:n])
		if err := in.write(t.Context(), rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	up := in.(*s3Ingest)
	_, err = b.client.UploadPart(t.Context(), &s3.UploadPartInput{
		Bucket: &b.at.bucket, Key: &up.key, UploadId: &up.upload, PartNumber: aws.Int32(1), Body: bytes.NewReader(make([]byte, minChunk)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := in.commit(t.Context()); !errors.Is(err, errOvertaken) {
		t.Errorf("%v; want errOvertaken", err)
	}
	mustNotHave(t, s, desc.Digest)
	mustBeClean(t, s)
}

func TestE2ERedirect(t *testing.T) {
	s := mustOpen(t, startS3(t, t.TempDir()).storageURL(""), Options{Redirect: true})
	data := testBytes(100_000)
	at, ok, err := s.Redirect(t.Context(), admitted(t, s, data))
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	for _, c := range []struct {
		url, header string
		status      int
		want        []byte
	}{
		{at, "", http.StatusOK, data},
		{at, "bytes=99990-", http.StatusPartialContent, data[99990:]},
		{strings.Replace(at, "X-Amz-Expires=900", "X-Amz-Expires=901", 1), "", http.StatusForbidden, nil},
		{strings.Split(at, "?")[0], "", http.StatusForbidden, nil},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.header != "" {
			req.Header.Set("Range", c.header)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		if err := errors.Join(err, res.Body.Close()); err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != c.status || c.want != nil && (!bytes.Equal(got, c.want) || res.Header.Get("Content-Type") != octets) {
			t.Errorf("GET %s: %s, %d bytes of %s", c.url, res.Status, len(got), res.Header.Get("Content-Type"))
		}
	}
}

// cutter is a link to the server that breaks after some bytes towards it or from it.
type cutter struct {
	net.Listener
	left atomic.Int64 // bytes until it breaks; far more than enough when it is whole
	back atomic.Int64
}

func newCutter(t *testing.T, server string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{Listener: l}
	c.mend()
	t.Cleanup(func() { _ = l.Close() }) // it serves nobody any more
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", strings.TrimPrefix(server, "http://"))
			if err != nil {
				_ = in.Close() // as a dead server does
				continue
			}
			go carry(out, in, &c.left)
			go carry(in, out, &c.back)
		}
	}()
	return c
}

func (c *cutter) mend() {
	c.left.Store(1 << 50)
	c.back.Store(1 << 50)
}

func carry(to, from net.Conn, left *atomic.Int64) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if left.Add(-int64(n)) < 0 {
			return
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

func TestE2ECutLink(t *testing.T) {
	server := startS3(t, t.TempDir())
	link := newCutter(t, server.url)
	server.url = "http://" + link.Addr().String()
	at := server.storageURL("")
	data, desc := wideBlob()
	s := mustOpen(t, at, Options{})
	var failed *S3Error
	for _, n := range []int64{100_000, minChunk + minChunk/2} {
		link.left.Store(n)
		err := s.Admit(t.Context(), desc, (&source{data: data}).open, nil)
		if !errors.As(err, &failed) || failed.Bucket != fakeBucket || !strings.Contains(failed.Key, desc.Digest.Encoded()) {
			t.Fatalf("cut after %d bytes: %v; want *S3Error", n, err)
		}
		noSecret(t, err)
		link.mend()
		mustNotHave(t, s, desc.Digest)
	}
	src := &source{data: data}
	if err := s.Admit(t.Context(), desc, src.open, nil); err != nil || src.offsets[0] != minChunk {
		t.Fatalf("%v; opened at %v, want one whole chunk", err, src.offsets)
	}
	mustHave(t, s, desc.Digest, data)
	mustBeClean(t, s)

	blob, err := s.OpenBlob(t.Context(), desc.Digest)
	if err != nil {
		t.Fatal(err)
	}
	link.back.Store(wide / 2)
	got, err := io.ReadAll(blob)
	if !errors.As(err, &failed) || len(got) == wide || !bytes.HasPrefix(data, got) {
		t.Fatalf("cut while reading: %d bytes, %v; want *S3Error", len(got), err)
	}
	noSecret(t, err)
	link.mend()
	if _, err := blob.Seek(int64(len(got)), io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(blob); err == nil {
		t.Error("a broken stream went on") // its owner opens the blob again
	}
	mustHave(t, s, desc.Digest, data)
}

func TestE2ERefused(t *testing.T) {
	r := startS3(t, t.TempDir())
	for name, c := range map[string]struct {
		key, secret, bucket string
		want                error
	}{
		"wrong secret": {fakeKey, "hunter2hunter2", fakeBucket, fs.ErrPermission},
		"unknown key":  {"AKIANOBODY", fakeSecret, fakeBucket, fs.ErrPermission},
		"no bucket":    {fakeKey, fakeSecret, "elsewhere", ErrNoBucket},
	} {
		setCredentials(t, c.key, c.secret)
		_, err := OpenURL(t.Context(), strings.Replace(r.storageURL(""), fakeBucket, c.bucket, 1), Options{})
		var failed *S3Error
		if !errors.As(err, &failed) || !errors.Is(err, c.want) || failed.Bucket != c.bucket || strings.Contains(err.Error(), c.secret) {
			t.Errorf("%s: %v; want %v", name, err, c.want)
		}
		t.Log(err)
	}
}

func TestE2EFullDisk(t *testing.T) {
	dir := t.TempDir()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small tmpfs")
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=12m"); err != nil {
		t.Skipf("needs the right to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	r := startS3(t, dir)
	s := mustOpen(t, r.storageURL(""), Options{})
	err := s.Admit(t.Context(), largeDesc(), openNumbers(largeBlob), nil)
	var failed *S3Error
	if !errors.As(err, &failed) {
		t.Fatalf("%v; want *S3Error", err)
	}
	t.Log(err)
	mustNotHave(t, s, largeDesc().Digest)
	left := s.Partial(t.Context(), largeDesc().Digest)
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=200m"); err != nil {
		t.Fatal(err)
	}
	admitRest(t, s, left)
	mustBeClean(t, s)
}

const memoryEnv = "PLIMSOLL_TEST_STORE_MEMORY" // a storage URL; see TestE2EMemory

// TestE2EMemory admits four large blobs at once in a process of its own and asks it for its peak.
func TestE2EMemory(t *testing.T) {
	const size, bound = 128 << 20, 150 << 20
	if at := os.Getenv(memoryEnv); at != "" {
		s := mustOpen(t, at, Options{})
		var all sync.WaitGroup
		for k := range int64(4) {
			all.Go(func() {
				d, err := digest.FromReader(&numbers{size: size + k})
				if err != nil {
					t.Error(err)
					return
				}
				if err := s.Admit(context.Background(), ocispec.Descriptor{Digest: d, Size: size + k}, openNumbers(size+k), nil); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		return
	}
	r := startS3(t, t.TempDir())
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, chunk := range []string{"", "&chunk-size=16MiB&upload-memory=64MiB"} {
		at := strings.Replace(r.storageURL(""), "&chunk-size=5MiB", chunk, 1)
		cmd := exec.Command(exe, "-test.run", "^TestE2EMemory$")
		cmd.Env = append(os.Environ(), memoryEnv+"="+at)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		peak := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
		t.Logf("4 × %d MiB at once%s: peak RSS %d MiB", size>>20, chunk, peak>>20)
		if peak > bound {
			t.Errorf("peak RSS %d MiB, want up to %d", peak>>20, bound>>20)
		}
	}
}
