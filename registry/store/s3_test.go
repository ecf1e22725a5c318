package store

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
)

// wide is a blob of two whole parts and a bit.
const wide = 2*minChunk + 12345

var wideBlob = sync.OnceValues(func() ([]byte, ocispec.Descriptor) {
	data, err := io.ReadAll(&numbers{size: wide})
	if err != nil {
		panic(err) // numbers does not fail
	}
	return data, describe(data)
})

// mustBeClean wants nothing in the bucket but the blobs.
func (f *fakeS3) mustBeClean() {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for key := range f.objects {
		if !strings.HasPrefix(key, "robots/a/blobs/") {
			f.t.Errorf("%s is left", key)
		}
	}
	if len(f.uploads) != 0 {
		f.t.Errorf("%d uploads are left", len(f.uploads))
	}
}

// noSecret fails when an error tells what it must not.
func noSecret(t *testing.T, err error) {
	t.Helper()
	for _, text := range []string{fmt.Sprint(err), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)} {
		if strings.Contains(text, fakeSecret) || strings.Contains(text, url.QueryEscape(fakeSecret)) {
			t.Errorf("the error tells the secret: %s", text)
		}
	}
}

func TestS3ShowsNothingBeforeItIsWhole(t *testing.T) {
	f := newFake(t)
	s := f.open("")
	data, desc := wideBlob()
	key := "robots/a" + blobPath(desc.Digest)
	f.setAfter(func(op, _ string) {
		if _, there := f.objects[key]; there && op != "Complete" {
			t.Errorf("the blob is visible after %s", op)
		}
	})
	if err := s.Admit(t.Context(), desc, (&source{data: data}).open, nil); err != nil {
		t.Fatal(err)
	}
	mustHave(t, s, desc.Digest, data)
	f.mustBeClean()
	if f.count("PutPart") != 3 || f.count("Create") != 1 || f.count("Complete") != 1 {
		t.Errorf("requests: %q", f.requests())
	}
}

func TestS3PutsSmallBlobsAtOnce(t *testing.T) {
	f := newFake(t)
	s := f.open("")
	data := testBytes(minChunk) // just one chunk
	if err := s.Admit(t.Context(), describe(data), (&source{data: data}).open, nil); err != nil {
		t.Fatal(err)
	}
	if f.count("Put") != 1 || f.count("Create") != 0 || f.count("ListUploads") != 0 {
		t.Errorf("requests: %q", f.requests())
	}
	mustHave(t, s, describe(data).Digest, data)
	f.mustBeClean()
}

func TestS3ContinuesAtTheByte(t *testing.T) {
	data, desc := wideBlob()
	f := newFake(t)
	for _, n := range []int{5, minChunk - 1, minChunk, minChunk + 1, 2 * minChunk, wide - 1} {
		// Each Admit by a process of its own.
		if err := f.open("").Admit(t.Context(), desc, cut(data, n), nil); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
		s := f.open("")
		mustNotHave(t, s, desc.Digest)
		if left := s.Partial(t.Context(), desc.Digest); left != int64(n) {
			t.Errorf("Partial = %d, want %d", left, n)
		}
	}
	src := &source{data: data}
	s := f.open("")
	if err := s.Admit(t.Context(), desc, src.open, nil); err != nil || !slices.Equal(src.offsets, []int64{wide - 1}) {
		t.Fatalf("%v; opened at %v", err, src.offsets)
	}
	mustHave(t, s, desc.Digest, data)
	f.mustBeClean()
	if f.count("Create") != 1 {
		t.Errorf("%d uploads were begun, want 1", f.count("Create"))
	}
}

// A process that is killed says nothing more to S3.
func TestS3ContinuesAfterKill(t *testing.T) {
	data, desc := wideBlob()
	for _, c := range []struct {
		op   string
		nth  int   // the request of this kind that is not carried out, nor any later one
		want int64 // where the next Admit goes on
	}{
		{"Put", 1, 0}, // the state of the begun upload: sweep ends it
		{"PutPart", 1, 0},
		{"Put", 2, 0}, // the first part is there, and no state says so
		{"PutPart", 2, minChunk},
		{"Put", 3, minChunk},
		{"PutPart", 3, 2 * minChunk},
		{"Complete", 1, 2 * minChunk},
	} {
		t.Run(fmt.Sprint(c.op, c.nth), func(t *testing.T) {
			f := newFake(t)
			s := f.open("")
			seen, dead := 0, false
			f.setFault(func(op, _ string, w http.ResponseWriter, _ *http.Request) bool {
				f.mu.Lock()
				defer f.mu.Unlock()
				if op == c.op {
					seen++
				}
				if dead = dead || seen == c.nth; dead {
					panic(http.ErrAbortHandler)
				}
				return false
			})
			var failed *S3Error
			if err := s.Admit(t.Context(), desc, (&source{data: data}).open, nil); !errors.As(err, &failed) || failed.Bucket != fakeBucket {
				t.Fatalf("%v; want *S3Error", err)
			}
			f.setFault(nil)
			s = f.open("")
			mustNotHave(t, s, desc.Digest)
			src := &source{data: data}
			if err := s.Admit(t.Context(), desc, src.open, nil); err != nil || !slices.Equal(src.offsets, []int64{c.want}) {
				t.Fatalf("%v; opened at %v, want %d", err, src.offsets, c.want)
			}
			mustHave(t, s, desc.Digest, data)
			f.mustBeClean()
		})
	}
}

func TestS3RemovesDamage(t *testing.T) {
	data, desc := wideBlob()
	bad := slices.Clone(data)
	bad[wide-1]++
	f := newFake(t)
	s := f.open("")
	for _, open := range []OpenFrom{(&source{data: bad}).open, cut(data, minChunk+9), (&source{data: bad}).open} {
		err := s.Admit(t.Context(), desc, open, nil)
		var damaged *bundle.DamagedError
		if !errors.As(err, &damaged) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
		mustNotHave(t, s, desc.Digest)
	}
	f.mustBeClean()
}

// The answer to Complete is lost, the SDK asks again, and S3 does not know the upload any more.
func TestS3CompleteAnsweredTwice(t *testing.T) {
	data, desc := wideBlob()
	f := newFake(t)
	t.Setenv("AWS_MAX_ATTEMPTS", "3")
	s := f.open("")
	f.setFault(func(op, _ string, w http.ResponseWriter, r *http.Request) bool {
		if op == "Complete" && f.count("Complete") == 1 {
			f.setFault(nil)
			f.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		return false
	})
	var sum int64
	if err := s.Admit(t.Context(), desc, (&source{data: data}).open, func(n int64) { sum += n }); err != nil || sum != wide {
		t.Fatalf("%v, progress %d", err, sum)
	}
	if f.count("Complete") < 3 { // the one that is cut is carried out by a second call
		t.Error("Complete was asked for once: nothing is proved")
	}
	mustHave(t, s, desc.Digest, data)
}

// Two processes admit one blob at a time; whatever the other does, only the right bytes become visible.
func TestS3OtherProcess(t *testing.T) {
	data, desc := wideBlob()
	key := "robots/a" + blobPath(desc.Digest)
	bad := bytes.Repeat([]byte{7}, minChunk)
	for name, other := range map[string]func(f *fakeS3){
		"ends the upload":    func(f *fakeS3) { clear(f.uploads) },
		"overwrites a part":  func(f *fakeS3) { f.uploads["upload-1"].parts[1] = bad },
		"finishes the blob":  func(f *fakeS3) { f.objects[key] = data; clear(f.uploads) },
		"removes the state":  func(f *fakeS3) { delete(f.objects, "robots/a"+ingestPath(desc.Digest)) },
		"replaces the state": func(f *fakeS3) { f.objects["robots/a"+ingestPath(desc.Digest)] = []byte("{}\n") },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			s := f.open("")
			f.setAfter(func(op, _ string) {
				if op == "PutPart" && len(f.uploads) > 0 && len(f.uploads["upload-1"].parts) == 2 {
					f.after = nil
					other(f)
				}
			})
			if err := s.Admit(t.Context(), desc, (&source{data: data}).open, nil); err != nil {
				t.Fatal(err)
			}
			mustHave(t, s, desc.Digest, data)
			f.with(func() {
				if f.after != nil {
					t.Error("the other process did nothing")
				}
			})
		})
	}
}

// Between two Admits anything may happen to what the first one left.
func TestS3RemainsAreNotBelieved(t *testing.T) {
	data, desc := wideBlob()
	at := "robots/a" + ingestPath(desc.Digest)
	other := bytes.Repeat([]byte{7}, minChunk)
	for name, harm := range map[string]func(f *fakeS3){
		"a part is another":   func(f *fakeS3) { f.uploads["upload-1"].parts[1] = other },
		"a part is gone":      func(f *fakeS3) { delete(f.uploads["upload-1"].parts, 1) },
		"a part is short":     func(f *fakeS3) { f.uploads["upload-1"].parts[1] = other[:9] },
		"the upload is gone":  func(f *fakeS3) { clear(f.uploads) },
		"the state is cut":    func(f *fakeS3) { f.objects[at] = f.objects[at][:len(f.objects[at])-5] },
		"the state is empty":  func(f *fakeS3) { f.objects[at] = nil },
		"the state is a page": func(f *fakeS3) { f.objects[at] = bytes.Repeat([]byte("<html>"), 10_000) },
		"the tail is another": func(f *fakeS3) { f.objects[at][len(f.objects[at])-5]++ },
		"the hash is another": func(f *fakeS3) { f.objects[at] = bytes.Replace(f.objects[at], []byte("c2hhA"), []byte("c2hhB"), 1) },
		"of another upload": func(f *fakeS3) {
			f.objects[at] = bytes.Replace(f.objects[at], []byte("upload-1"), []byte("upload-9"), 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			if err := f.open("").Admit(t.Context(), desc, cut(data, minChunk+100), nil); err == nil {
				t.Fatal("a source that breaks off was admitted")
			}
			f.with(func() {
				if !bytes.Contains(f.objects[at], []byte("c2hhA")) || len(f.uploads) != 1 {
					t.Fatal("the remains are not as this test believes")
				}
				harm(f)
			})
			s := f.open("")
			src := &source{data: data}
			if err := s.Admit(t.Context(), desc, src.open, nil); err != nil {
				t.Fatal(err)
			}
			if src.offsets[len(src.offsets)-1] != 0 {
				t.Errorf("opened at %v, want 0 in the end", src.offsets)
			}
			mustHave(t, s, desc.Digest, data)
			f.mustBeClean()
		})
	}
}

func TestS3EndsUploadsThatNobodyKnows(t *testing.T) {
	data, desc := wideBlob()
	f := newFake(t)
	s := f.open("")
	key := "robots/a" + blobPath(desc.Digest)
	f.with(func() {
		f.uploads["lost"] = &fakeUpload{key: key}
		f.uploads["of another blob"] = &fakeUpload{key: key + "0"}
	})
	if err := s.Admit(t.Context(), desc, (&source{data: data}).open, nil); err != nil {
		t.Fatal(err)
	}
	f.with(func() {
		if len(f.uploads) != 1 || f.uploads["of another blob"] == nil {
			t.Errorf("uploads: %v", f.uploads)
		}
	})
	// The right to list uploads is not everyone's.
	f = newFake(t)
	s = f.open("")
	f.setFault(func(op, _ string, w http.ResponseWriter, _ *http.Request) bool {
		if op == "ListUploads" {
			s3Fail(w, http.StatusForbidden, "AccessDenied")
		}
		return op == "ListUploads"
	})
	if err := s.Admit(t.Context(), desc, (&source{data: data}).open, nil); err != nil {
		t.Fatal(err)
	}
}

func TestS3WaitsForMemory(t *testing.T) {
	f := newFake(t)
	s := f.open("")
	b := s.place.(*bucket)
	release, opened := make(chan struct{}), make(chan struct{}, 5)
	var all sync.WaitGroup
	for k := range 5 {
		data := testBytes(minChunk + k)
		all.Go(func() {
			err := s.Admit(t.Context(), describe(data), func(int64) (io.ReadCloser, error) {
				opened <- struct{}{}
				<-release
				return io.NopCloser(bytes.NewReader(data)), nil
			}, nil)
			if err != nil {
				t.Error(err)
			}
		})
	}
	<-opened
	<-opened
	if b.memory.TryAcquire(1) {
		t.Error("two uploads of 5 MiB left some of 10 MiB")
	}
	close(release)
	all.Wait()
	if !b.memory.TryAcquire(b.at.memory) {
		t.Error("memory was not given back")
	}
	if _, err := b.ingest(t.Context(), ocispec.Descriptor{Size: 200 << 30}); err == nil {
		t.Error("a blob whose parts do not fit into the memory was begun")
	}
}

func TestS3ChunkFor(t *testing.T) {
	b := &bucket{at: location{chunk: 8 << 20}}
	for _, size := range []int64{0, 1, 8 << 20, 80 << 30, 5 << 40} {
		chunk := b.chunkFor(size)
		if chunk < b.at.chunk || chunk > maxChunk || (size+chunk-1)/chunk > maxParts {
			t.Errorf("%d bytes: parts of %d", size, chunk)
		}
	}
}

func TestS3Errors(t *testing.T) {
	data := testBytes(100)
	desc := describe(data)
	for _, c := range []struct {
		status int
		code   string
		is     error
	}{
		{403, "AccessDenied", fs.ErrPermission},
		{403, "SignatureDoesNotMatch", fs.ErrPermission},
		{404, "NoSuchBucket", ErrNoBucket},
		{507, "XMinioStorageFull", syscall.ENOSPC},
		{403, "QuotaExceeded", syscall.ENOSPC},
		{400, "Odd", nil},
	} {
		f := newFake(t)
		s := f.open("")
		f.setFault(func(op, _ string, w http.ResponseWriter, _ *http.Request) bool {
			if op == "Put" {
				s3Fail(w, c.status, c.code)
			}
			return op == "Put"
		})
		err := s.Admit(t.Context(), desc, (&source{data: data}).open, nil)
		var failed *S3Error
		if !errors.As(err, &failed) || failed.Code != c.code || failed.Status != c.status || failed.Key != "robots/a"+blobPath(desc.Digest) {
			t.Errorf("%s: %#v", c.code, err)
		}
		if c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v; want %v", c.code, err, c.is)
		}
		if text := err.Error(); !strings.Contains(text, "s3://"+fakeBucket+"/robots/a/blobs/") || !strings.Contains(text, "server's words") {
			t.Errorf("%s: %s", c.code, text)
		}
		noSecret(t, err)
	}
	f := newFake(t)
	s := f.open("")
	f.setFault(func(string, string, http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) })
	_, err := s.Size(t.Context(), desc.Digest)
	var failed *S3Error
	if !errors.As(err, &failed) || failed.Status != 0 || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a cut connection: %v", err)
	}
	if err := s.Admit(t.Context(), desc, noSource, nil); !errors.As(err, &failed) {
		t.Errorf("a cut connection: %v; want it to end before the source is opened", err)
	}
}

func TestOpenURLOfS3(t *testing.T) {
	f := newFake(t)
	open := func(at string) error {
		_, err := OpenURL(t.Context(), at, Options{})
		noSecret(t, err)
		return err
	}
	if err := open(strings.Replace(f.storageURL(""), fakeBucket, "elsewhere", 1)); !errors.Is(err, ErrNoBucket) {
		t.Errorf("no bucket: %v", err)
	}
	setCredentials(t, fakeKey, fakeSecret+"x")
	if err := open(f.storageURL("")); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("wrong secret: %v", err)
	}
	setCredentials(t, "", "")
	var none *CredentialsError
	if err := open(f.storageURL("")); !errors.As(err, &none) {
		t.Errorf("no credentials: %v", err)
	}
	setCredentials(t, fakeKey, fakeSecret)
	gone := httptest.NewServer(nil)
	gone.Close()
	if err := open("s3://plant7?region=r&path-style=true&endpoint=" + gone.URL); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("no server: %v", err)
	}
	if _, err := OpenURL(t.Context(), f.storageURL(""), Options{RedirectLife: MaxRedirectLife + 1}); err == nil {
		t.Error("a redirect for ever was accepted")
	}
}

func TestS3CAFile(t *testing.T) {
	f := newFake(t)
	server := httptest.NewUnstartedServer(f)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // the handshake that must not succeed
	server.StartTLS()
	t.Cleanup(server.Close)
	f.url = server.URL
	_, err := OpenURL(t.Context(), f.storageURL(""), Options{})
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) {
		t.Errorf("without its CA: %v", err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	s := f.open("&ca-file=" + url.QueryEscape(ca))
	data := testBytes(10)
	if err := s.Admit(t.Context(), describe(data), (&source{data: data}).open, nil); err != nil {
		t.Fatal(err)
	}
	mustHave(t, s, describe(data).Digest, data)
	for _, name := range []string{filepath.Join(t.TempDir(), "none"), "/dev/null", t.TempDir()} {
		if _, err := OpenURL(t.Context(), f.storageURL("&ca-file="+url.QueryEscape(name)), Options{}); err == nil || !strings.Contains(err.Error(), "ca-file") {
			t.Errorf("ca-file=%s: %v", name, err)
		}
	}
}
