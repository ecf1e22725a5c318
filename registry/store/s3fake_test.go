package store

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

const (
	fakeKey    = "AKIAPLIMSOLLTEST"
	fakeSecret = "s3cr3t/of+the/test+that/no+error/may+tell"
	fakeBucket = "plant7"
	fakeRegion = "us-east-1"
)

// fakeS3 is the part of S3 that the store uses, with S3's rules: signatures, MD5, the smallest part, ETags of parts, and
// nothing visible before it is complete. The e2e build holds it against a real server.
type fakeS3 struct {
	t   *testing.T
	url string

	mu      sync.Mutex
	objects map[string][]byte
	uploads map[string]*fakeUpload
	begun   int      // uploads so far
	log     []string // operation and key of each request
	// fault may answer instead of the server; it returns whether it did.
	fault func(op, key string, w http.ResponseWriter, r *http.Request) bool
	// after runs when a request was carried out, before it is answered.
	after func(op, key string)
}

type fakeUpload struct {
	key   string
	parts map[int][]byte
}

func setCredentials(t *testing.T, key, secret string) {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_REGION": "",
		"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CA_BUNDLE": "", "AWS_MAX_ATTEMPTS": "1", "AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_S3": "", "NO_PROXY": "127.0.0.1",
	} {
		t.Setenv(name, value)
	}
}

func newFake(t *testing.T) *fakeS3 {
	t.Helper()
	setCredentials(t, fakeKey, fakeSecret)
	f := &fakeS3{t: t, objects: make(map[string][]byte), uploads: make(map[string]*fakeUpload)}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	f.url = server.URL
	return f
}

func (f *fakeS3) storageURL(more string) string {
	return "s3://" + fakeBucket + "/robots/a?region=" + fakeRegion + "&path-style=true&chunk-size=5MiB&upload-memory=10MiB&endpoint=" + url.QueryEscape(f.url) + more
}

func (f *fakeS3) open(more string) *Store {
	f.t.Helper()
	s, err := OpenURL(f.t.Context(), f.storageURL(more), Options{})
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// with runs fn while no request is carried out.
func (f *fakeS3) with(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
}

func (f *fakeS3) setFault(fault func(op, key string, w http.ResponseWriter, r *http.Request) bool) {
	f.with(func() { f.fault = fault })
}

func (f *fakeS3) setAfter(after func(op, key string)) { f.with(func() { f.after = after }) }

// requests are the operations so far, with their keys.
func (f *fakeS3) requests() (log []string) {
	f.with(func() { log = slices.Clone(f.log) })
	return log
}

// count says how often an operation was asked for.
func (f *fakeS3) count(op string) int {
	n := 0
	for _, line := range f.requests() {
		if strings.HasPrefix(line, op+" ") {
			n++
		}
	}
	return n
}

func operation(r *http.Request, key string) string {
	q := r.URL.Query()
	switch {
	case key == "" && q.Has("uploads"):
		return "ListUploads"
	case key == "":
		return "List"
	case r.Method == http.MethodPost && q.Has("uploads"):
		return "Create"
	case r.Method == http.MethodPost && q.Has("uploadId"):
		return "Complete"
	case r.Method == http.MethodPut && q.Has("uploadId"):
		return "PutPart"
	case r.Method == http.MethodDelete && q.Has("uploadId"):
		return "Abort"
	case r.Method == http.MethodGet && q.Has("uploadId"):
		return "ListParts"
	}
	return map[string]string{http.MethodGet: "Get", http.MethodHead: "Head", http.MethodPut: "Put", http.MethodDelete: "Delete"}[r.Method]
}

func (f *fakeS3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	op := operation(r, key)
	f.mu.Lock()
	f.log = append(f.log, op+" "+key)
	fault := f.fault
	f.mu.Unlock()
	if fault != nil && fault(op, key, w, r) {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client is gone
	}
	if code := f.refuses(r, body); code != "" {
		s3Fail(w, http.StatusForbidden, code)
		return
	}
	if name != fakeBucket {
		s3Fail(w, http.StatusNotFound, "NoSuchBucket")
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if sum := r.Header.Get("Content-Md5"); sum != "" && sum != base64MD5(body) {
		s3Fail(w, http.StatusBadRequest, "BadDigest")
		return
	}
	if id := r.URL.Query().Get("uploadId"); id != "" {
		f.multipart(w, r, op, key, id, body)
	} else {
		f.object(w, r, op, key, body)
	}
}

// refuses checks the signature by signing the request again.
func (f *fakeS3) refuses(r *http.Request, body []byte) (code string) {
	if r.URL.Query().Get("X-Amz-Signature") != "" {
		return "" // what is wrong with a presigned URL the real server tells
	}
	auth := r.Header.Get("Authorization")
	_, signed, _ := strings.Cut(auth, "SignedHeaders=")
	signed, _, _ = strings.Cut(signed, ",")
	when, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || !strings.Contains(auth, "Credential="+fakeKey+"/") {
		return "InvalidAccessKeyId"
	}
	again, err := http.NewRequest(r.Method, "http://"+r.Host+r.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		return "InvalidURI"
	}
	for _, h := range strings.Split(signed, ";") {
		if h != "host" && h != "content-length" {
			again.Header[http.CanonicalHeaderKey(h)] = r.Header.Values(h)
		}
	}
	creds := aws.Credentials{AccessKeyID: fakeKey, SecretAccessKey: fakeSecret}
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	if err := signer.SignHTTP(context.Background(), creds, again, r.Header.Get("X-Amz-Content-Sha256"), "s3", fakeRegion, when); err != nil {
		return "InvalidRequest"
	}
	if again.Header.Get("Authorization") != auth {
		return "SignatureDoesNotMatch"
	}
	return ""
}

func (f *fakeS3) done(op, key string) {
	if f.after != nil {
		f.after(op, key)
	}
}

func (f *fakeS3) object(w http.ResponseWriter, r *http.Request, op, key string, body []byte) {
	data, there := f.objects[key]
	switch op {
	case "List":
		f.list(w, r)
	case "ListUploads":
		var out struct {
			XMLName xml.Name `xml:"ListMultipartUploadsResult"`
			Upload  []struct{ Key, UploadId string }
		}
		for id, u := range f.uploads {
			if strings.HasPrefix(u.key, r.URL.Query().Get("prefix")) {
				out.Upload = append(out.Upload, struct{ Key, UploadId string }{u.key, id})
			}
		}
		s3Answer(w, out)
	case "Create":
		f.begun++
		id := fmt.Sprintf("upload-%d", f.begun)
		f.uploads[id] = &fakeUpload{key: key, parts: make(map[int][]byte)}
		f.done(op, key)
		s3Answer(w, struct {
			XMLName  xml.Name `xml:"InitiateMultipartUploadResult"`
			UploadId string
		}{UploadId: id})
	case "Put":
		if match := r.Header.Get("If-Match"); match != "" && (!there || etagOf(data) != match) || r.Header.Get("If-None-Match") != "" && there {
			s3Fail(w, http.StatusPreconditionFailed, "PreconditionFailed")
			return
		}
		f.objects[key] = body
		f.done(op, key)
		w.Header().Set("ETag", etagOf(body))
	case "Delete":
		delete(f.objects, key)
		w.WriteHeader(http.StatusNoContent)
	default: // Get, Head
		if !there {
			s3Fail(w, http.StatusNotFound, "NoSuchKey")
			return
		}
		w.Header().Set("ETag", etagOf(data))
		w.Header().Set("Content-Type", octets)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
}

func (f *fakeS3) list(w http.ResponseWriter, r *http.Request) {
	const page = 7 // small, so that every test turns pages
	type object struct {
		Key          string
		Size         int
		LastModified string
	}
	var out struct {
		XMLName               xml.Name `xml:"ListBucketResult"`
		Contents              []object
		IsTruncated           bool
		NextContinuationToken string `xml:",omitempty"`
	}
	q := r.URL.Query()
	for _, key := range slices.Sorted(maps.Keys(f.objects)) {
		if !strings.HasPrefix(key, q.Get("prefix")) || key <= q.Get("continuation-token") {
			continue
		}
		if len(out.Contents) == page {
			out.IsTruncated, out.NextContinuationToken = true, out.Contents[page-1].Key
			break
		}
		out.Contents = append(out.Contents, object{key, len(f.objects[key]), "2026-01-02T03:04:05.000Z"})
	}
	s3Answer(w, out)
}

func (f *fakeS3) multipart(w http.ResponseWriter, r *http.Request, op, key, id string, body []byte) {
	u := f.uploads[id]
	if u == nil || u.key != key {
		s3Fail(w, http.StatusNotFound, "NoSuchUpload")
		return
	}
	switch op {
	case "PutPart":
		n, err := strconv.Atoi(r.URL.Query().Get("partNumber"))
		if err != nil || n < 1 || n > maxParts {
			s3Fail(w, http.StatusBadRequest, "InvalidArgument")
			return
		}
		u.parts[n] = body
		f.done(op, key)
		w.Header().Set("ETag", etagOf(body))
	case "ListParts":
		type part struct {
			PartNumber, Size int
			ETag             string
		}
		var out struct {
			XMLName              xml.Name `xml:"ListPartsResult"`
			IsTruncated          bool
			NextPartNumberMarker int
			Part                 []part
		}
		marker, _ := strconv.Atoi(r.URL.Query().Get("part-number-marker"))
		for _, n := range slices.Sorted(maps.Keys(u.parts)) {
			if n <= marker {
				continue
			}
			if out.IsTruncated = len(out.Part) == 2; out.IsTruncated { // two a page
				break
			}
			out.Part = append(out.Part, part{n, len(u.parts[n]), etagOf(u.parts[n])})
			out.NextPartNumberMarker = n
		}
		s3Answer(w, out)
	case "Abort":
		delete(f.uploads, id)
		w.WriteHeader(http.StatusNoContent)
	case "Complete":
		f.complete(w, u, id, body)
	}
}

func (f *fakeS3) complete(w http.ResponseWriter, u *fakeUpload, id string, body []byte) {
	var in struct {
		Part []struct {
			PartNumber int
			ETag       string
		}
	}
	if err := xml.Unmarshal(body, &in); err != nil || len(in.Part) == 0 {
		s3Fail(w, http.StatusBadRequest, "MalformedXML")
		return
	}
	var whole []byte
	for k, p := range in.Part {
		data, there := u.parts[p.PartNumber]
		switch {
		case !there || etagOf(data) != p.ETag:
			s3Fail(w, http.StatusBadRequest, "InvalidPart")
			return
		case k > 0 && p.PartNumber <= in.Part[k-1].PartNumber:
			s3Fail(w, http.StatusBadRequest, "InvalidPartOrder")
			return
		case k < len(in.Part)-1 && len(data) < minChunk:
			s3Fail(w, http.StatusBadRequest, "EntityTooSmall")
			return
		}
		whole = append(whole, data...)
	}
	f.objects[u.key] = whole
	delete(f.uploads, id)
	f.done("Complete", u.key)
	s3Answer(w, struct {
		XMLName xml.Name `xml:"CompleteMultipartUploadResult"`
		Key     string
		ETag    string
	}{Key: u.key, ETag: etagOf(whole)})
}

func etagOf(data []byte) string {
	sum := md5.Sum(data)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

func base64MD5(data []byte) string {
	sum := md5.Sum(data)
	return base64.StdEncoding.EncodeToString(sum[:])
}

func s3Answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(v) // a client that is gone
}

func s3Fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_ = xml.NewEncoder(w).Encode(struct { // a client that is gone
		XMLName       xml.Name `xml:"Error"`
		Code, Message string
	}{Code: code, Message: "the server's words for " + code})
}

func newBucketWithStall(t *testing.T, f *fakeS3, stall time.Duration) (*bucket, error) {
	t.Helper()
	at, err := parseURL(f.storageURL(""))
	if err != nil {
		return nil, err
	}
	return newBucket(t.Context(), at, Options{}, stall)
}
