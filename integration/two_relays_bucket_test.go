package integration

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// bucketName is the one bucket of memoryBucket.
const bucketName = "relays"

// memoryBucket is as much of S3 as two relays need whose blobs go in one piece each: whole objects, conditions, listings.
// It takes every signature and knows clients by their access keys. The e2e build has a real server instead.
type memoryBucket struct {
	url string

	mu      sync.Mutex
	objects map[string][]byte
	down    bool // it answers nobody
	loose   bool // it ignores conditions
	// before is told of each PUT before it is carried out, without the lock; an error is the answer.
	before func(client, key string) error
}

func newMemoryBucket(t *testing.T) *memoryBucket {
	t.Helper()
	m := &memoryBucket{objects: make(map[string][]byte)}
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	m.url = server.URL
	return m
}

func (m *memoryBucket) storage() string { return storageURL(m.url) }

// storageURL has every blob go in one piece.
func storageURL(endpoint string) string {
	return "s3://" + bucketName + "/site7?region=us-east-1&path-style=true&chunk-size=64MiB&upload-memory=256MiB&endpoint=" + url.QueryEscape(endpoint)
}

func (m *memoryBucket) set(fn func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fn()
}

func (m *memoryBucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, auth, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	client, _, _ := strings.Cut(auth, "/")
	name, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client is gone
	}
	m.mu.Lock()
	before, down := m.before, m.down
	m.mu.Unlock()
	if before != nil && r.Method == http.MethodPut {
		err = before(client, key)
	}
	if down || err != nil {
		refuse(w, http.StatusServiceUnavailable, "SlowDown")
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	data, there := m.objects[key]
	switch {
	case name != bucketName:
		refuse(w, http.StatusNotFound, "NoSuchBucket")
	case key == "" && r.Method == http.MethodGet:
		m.list(w, r.URL.Query())
	case r.Method == http.MethodPut:
		match, none := r.Header.Get("If-Match"), r.Header.Get("If-None-Match")
		if !m.loose && (match != "" && (!there || etag(data) != match) || none != "" && there) {
			refuse(w, http.StatusPreconditionFailed, "PreconditionFailed")
			return
		}
		m.objects[key] = body
		w.Header().Set("ETag", etag(body))
	case r.Method == http.MethodDelete:
		delete(m.objects, key)
		w.WriteHeader(http.StatusNoContent)
	case !there:
		refuse(w, http.StatusNotFound, "NoSuchKey")
	default:
		w.Header().Set("ETag", etag(data))
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
}

func (m *memoryBucket) list(w http.ResponseWriter, q url.Values) {
	type object struct {
		Key          string
		Size         int
		LastModified string
	}
	var out struct {
		XMLName     xml.Name `xml:"ListBucketResult"`
		Contents    []object
		IsTruncated bool
	}
	for _, key := range slices.Sorted(maps.Keys(m.objects)) {
		if strings.HasPrefix(key, q.Get("prefix")) {
			out.Contents = append(out.Contents, object{key, len(m.objects[key]), "2026-01-02T03:04:05.000Z"})
		}
	}
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(out) // a client that is gone
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no</Message></Error>", code)
}

func etag(data []byte) string {
	sum := md5.Sum(data)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}
