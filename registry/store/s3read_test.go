package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func admitted(t *testing.T, s *Store, data []byte) digest.Digest {
	t.Helper()
	if err := s.Admit(t.Context(), describe(data), (&source{data: data}).open, nil); err != nil {
		t.Fatal(err)
	}
	return describe(data).Digest
}

// What http.ServeContent does: it asks for the size by seeking, then reads once.
func TestS3ReadsOnlyWhatIsAskedFor(t *testing.T) {
	f := newFake(t)
	s := f.open("")
	data := testBytes(100_000)
	d := admitted(t, s, data)
	b, err := s.OpenBlob(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	before := f.count("Get")
	for _, c := range []struct {
		header string
		want   []byte
		gets   int
	}{{"", data, 1}, {"bytes=50000-50009", data[50000:50010], 1}, {"bytes=-7", data[len(data)-7:], 1}} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Range", c.header)
		w := httptest.NewRecorder()
		w.Header().Set("Content-Type", octets)
		http.ServeContent(w, r, "", time.Time{}, b.ReadSeekCloser)
		if !bytes.Equal(w.Body.Bytes(), c.want) || f.count("Get")-before != c.gets {
			t.Errorf("%q: %d bytes with %d requests", c.header, w.Body.Len(), f.count("Get")-before)
		}
		before = f.count("Get")
	}
	w := httptest.NewRecorder()
	w.Header().Set("Content-Type", octets)
	http.ServeContent(w, httptest.NewRequest(http.MethodHead, "/", nil), "", time.Time{}, b.ReadSeekCloser)
	if f.count("Get") != before {
		t.Error("HEAD read the blob")
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

func TestS3RefusesWrongAnswers(t *testing.T) {
	data := testBytes(1000)
	for name, answer := range map[string]func(w http.ResponseWriter){
		"the range is ignored": func(w http.ResponseWriter) { _, _ = w.Write(data) },
		"another range": func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes 0-499/1000")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(data[:500])
		},
		"cut": func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes 500-999/1000")
			w.Header().Set("Content-Length", "500")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(data[500:700])
			panic(http.ErrAbortHandler)
		},
		"no length": func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes 500-999/1000")
			w.WriteHeader(http.StatusPartialContent)
			w.(http.Flusher).Flush()
			_, _ = w.Write(data[500:])
		},
	} {
		f := newFake(t)
		s := f.open("")
		d := admitted(t, s, data)
		f.setFault(func(op, _ string, w http.ResponseWriter, _ *http.Request) bool {
			if op == "Get" {
				answer(w)
			}
			return op == "Get"
		})
		b, err := s.OpenBlob(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Seek(500, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(b)
		var failed *S3Error
		if !errors.As(err, &failed) || !bytes.HasPrefix(data[500:], got) || !strings.Contains(err.Error(), d.Encoded()) {
			t.Errorf("%s: %d bytes, %v; want *S3Error", name, len(got), err)
		}
	}
}

func TestS3Stalls(t *testing.T) {
	data := testBytes(minChunk)
	f := newFake(t)
	s := f.open("")
	d := admitted(t, s, data)
	end := make(chan struct{})
	t.Cleanup(func() { close(end) }) // before the server waits for its handlers
	f.setFault(func(op, _ string, w http.ResponseWriter, r *http.Request) bool {
		switch op {
		case "Get":
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			_, _ = w.Write(data[:1000])
			w.(http.Flusher).Flush()
			<-end
		case "Put":
			<-end // reads nothing
		}
		return op == "Get" || op == "Put"
	})
	b := s.place.(*bucket)
	b.stall = 50 * time.Millisecond
	blob, err := s.OpenBlob(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(blob); !errors.Is(err, ErrStalled) {
		t.Errorf("reading: %v; want ErrStalled", err)
	}
	quick, err := newBucketWithStall(t, f, 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if err := quick.put(t.Context(), "robots/a/x", bytes.Repeat(data, 4)); !errors.Is(err, ErrStalled) {
		t.Errorf("writing: %v; want ErrStalled", err)
	}
}

func TestS3WalkEnds(t *testing.T) {
	for name, answer := range map[string]string{
		"the same page":     `<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken><Contents><Key>robots/a%s</Key><Size>1</Size></Contents></ListBucketResult>`,
		"no next page":      `<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>`,
		"an endless page":   `<ListBucketResult>` + strings.Repeat("<Contents></Contents>", maxAnswer/20) + `</ListBucketResult>`,
		"not XML":           `{"a": %q}`,
		"cut in the middle": `<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>robots`,
	} {
		f := newFake(t)
		s := f.open("")
		if strings.Contains(answer, "%") {
			answer = fmt.Sprintf(answer, blobPath(digest.FromString("x")))
		}
		f.setFault(func(op, _ string, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Type", "application/xml")
			_, _ = io.WriteString(w, answer)
			return true
		})
		if err := s.Walk(t.Context(), func(digest.Digest, int64) error { return nil }); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestRedirect(t *testing.T) {
	data := testBytes(1000)
	drivers(t, func(t *testing.T, s *Store) {
		if at, ok, err := s.Redirect(t.Context(), describe(data).Digest); at != "" || ok || err != nil {
			t.Errorf("without Options.Redirect: %q, %v, %v", at, ok, err)
		}
		if _, _, err := s.Redirect(t.Context(), "sha256:../.."); err == nil {
			t.Error("a bad digest was redirected")
		}
	})
	f := newFake(t)
	s, err := OpenURL(t.Context(), f.storageURL("&redirect-endpoint=https://s3.plant7.example"), Options{Redirect: true, RedirectLife: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	d := admitted(t, s, data)
	before := len(f.requests())
	text, ok, err := s.Redirect(t.Context(), d)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	at, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if at.Host != "s3.plant7.example" || at.Path != "/"+fakeBucket+"/robots/a"+blobPath(d) || at.Query().Get("X-Amz-Expires") != "60" || strings.Contains(text, "s3cr3t") {
		t.Errorf("redirects to %s", text)
	}
	if len(f.requests()) != before {
		t.Error("S3 was asked")
	}
}
