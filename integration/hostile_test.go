package integration

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/internal/loadgen"
)

// maxHostileRSS is what the relay may hold whatever clients do to it.
const maxHostileRSS = 256 << 20

// victim is a relay with the first release of the example, which robots go on using while others attack it.
type victim struct {
	*site
	relay *process
	pull  []loadgen.Request // one robot's pull of the example's image
	git   []loadgen.Request // and its look at the Git refs
	blob  string            // path of the largest layer
	size  int64             // of it
	evil  string            // header lines by which attackers prove that they are a robot, too; none when everybody may read
}

const (
	hostileImage = "/v2/ghcr.io/acme/robot-app/"
	hostileGit   = "/git/github.com/acme/robot-deployment"
)

// newVictim starts a relay that everybody may read from.
func newVictim(t *testing.T) *victim {
	t.Helper()
	s := newSite(t)
	s.must("import", s.bundle("v1.5.4"))
	v := &victim{site: s, relay: s.startRelay(), git: lsRemoteV2(hostileGit)}
	v.learn()
	return v
}

// newGuardedVictim starts a relay that robots may read from: a good one, and an evil one.
func newGuardedVictim(t *testing.T) *victim {
	t.Helper()
	v := newVictim(t)
	v.relay.stop()
	v.evil = v.account("evil-robot")
	v.relay = v.startGuardedRelay()
	return v
}

// learn finds out what a robot asks for when it pulls the image.
func (v *victim) learn() {
	v.t.Helper()
	manifest := v.manifest("v1.5.4")
	digest := manifest.Manifests[0].Digest.String()
	v.pull = []loadgen.Request{
		{Method: "HEAD", Path: hostileImage + "manifests/v1.5.4"},
		{Method: "GET", Path: hostileImage + "manifests/v1.5.4"},
		{Method: "GET", Path: hostileImage + "manifests/" + digest},
	}
	manifest = v.manifest(digest)
	for _, blob := range append(manifest.Layers, manifest.Config) {
		path := hostileImage + "blobs/" + blob.Digest.String()
		v.pull = append(v.pull, loadgen.Request{Method: "GET", Path: path})
		if blob.Size > v.size {
			v.blob, v.size = path, blob.Size
		}
	}
}

func (v *victim) manifest(reference string) (m imageManifest) {
	v.t.Helper()
	if err := json.Unmarshal(get(v.t, "http://"+v.relay.addr+hostileImage+"manifests/"+reference), &m); err != nil {
		v.t.Fatal(err)
	}
	return m
}

// imageManifest is an index or the manifest of one platform.
type imageManifest struct {
	Manifests []ocispec.Descriptor `json:"manifests"`
	Config    ocispec.Descriptor   `json:"config"`
	Layers    []ocispec.Descriptor `json:"layers"`
}

// service lets a good client, at another address than the attackers', pull and look at refs some times, and gives the
// medians.
func (v *victim) service(rounds int) (pull, git time.Duration) {
	v.t.Helper()
	for _, part := range []struct {
		exchange []loadgen.Request
		took     *time.Duration
	}{{v.pull, &pull}, {v.git, &git}} {
		res := v.load(v.relay, loadgen.Plan{Repeat: &loadgen.Repeat{Clients: 1, Rounds: rounds, Fresh: true, Exchange: part.exchange}})
		if res.Errors > 0 {
			v.t.Errorf("a good client: %s\n%s", res.First, v.relay.log.String())
		}
		*part.took = res.Percentile(50)
	}
	return pull, git
}

// survived checks that the relay still serves, and what it held at most.
func (v *victim) survived() {
	v.t.Helper()
	v.service(1)
	if peak := v.relay.memory("VmHWM"); peak > maxHostileRSS {
		v.t.Errorf("%d bytes were resident, at most %d may be", peak, maxHostileRSS)
	}
}

// send writes bytes as they are, says that there are no more, and gives the statuses of the answers and all that was
// answered.
func (v *victim) send(raw string) (statuses []int, all string) {
	v.t.Helper()
	conn, err := net.Dial("tcp", v.relay.addr)
	if err != nil {
		v.t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // only read from
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		v.t.Fatal(err)
	}
	// A relay that has refused what came first closes the connection while the rest is still being written.
	_, _ = io.WriteString(conn, raw)
	_ = conn.(*net.TCPConn).CloseWrite()
	data, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		v.t.Errorf("%.60q: neither answered nor closed", raw)
	}
	r := bufio.NewReader(bytes.NewReader(data))
	for {
		resp, err := http.ReadResponse(r, &http.Request{Method: firstMethod(raw)})
		if err != nil {
			return statuses, string(data)
		}
		statuses = append(statuses, resp.StatusCode)
		_, _ = io.Copy(io.Discard, resp.Body) // what is cut off shows in the statuses that follow
	}
}

func firstMethod(raw string) string {
	method, _, _ := strings.Cut(raw, " ")
	return method
}

// trick is one hostile request, and the statuses that the relay may answer with; the last answer ends the connection.
type trick struct {
	name, raw string
	want      []int
}

func getLine(target string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n"
}

// Paths that try to leave their folder, or that two parsers may read differently: each is refused, and nothing is leaked.
func TestHostilePaths(t *testing.T) {
	v := newVictim(t)
	for _, path := range []string{
		"/v2/../../etc/passwd",
		"/v2/../active.json",
		"/v2/%2e%2e/%2e%2e/etc/passwd",
		"/..%2f..%2fetc%2fpasswd",
		"/%2e%2e/active.json",
		"//etc/passwd",
		"/v2//etc/passwd",
		"/v2/ghcr.io/acme/robot-app//manifests/v1.5.4",
		"/v2/ghcr.io/acme/../acme/robot-app/manifests/v1.5.4",
		"/v2/ghcr.io/acme/./robot-app/manifests/v1.5.4",
		"/v2/ghcr.io/acme/robot-app/manifests/../../../active.json",
		"/v2/ghcr.io/acme/robot-app/manifests/%2e%2e%2factive.json",
		"/v2/ghcr.io/acme/robot-app/blobs/..%2f..%2f..%2factive.json",
		"/v2/ghcr.io/acme/robot-app/blobs/sha256:..",
		"/v2/ghcr.io/acme/robot-app/blobs/sha256:%2e%2e%2factive.json",
		"/v2/ghcr.io/acme/robot-app/manifests/v1.5.4%00",
		"/v2/ghcr.io/acme/robot-app/manifests/v1.5.4/",
		"/v2/ghcr.io/acme/robot-app/manifests/v1.5.4\\..\\x",
		"/v2/acme/robot-app/manifests/v1.5.4?ns=../..",
		"/v2/acme/robot-app/manifests/v1.5.4?ns=ghcr.io%00",
		"/v2/acme/robot-app/manifests/v1.5.4?ns=ghcr.io/../docker.io",
		"/v2/acme/robot-app/manifests/v1.5.4?ns=%2f",
		"/v2/" + strings.Repeat("a/", 4000) + "manifests/x",
		"/v2/acme/robot-app/tags/list?n=99999999999999999999",
		"/git/github.com/acme/robot-deployment/../../../active.json",
		"/git/../store.git/info/refs?service=git-upload-pack",
		"/git/%2e%2e/store.git/info/refs?service=git-upload-pack",
		"/git/github.com/acme/robot-deployment%00.git/info/refs",
		"/git/github.com/acme/robot-deployment/objects/../../x",
		"/git/github.com/acme/robot-deployment/objects/info/packs",
		"/git/github.com/acme/robot-deployment/HEAD",
		"/git/github.com/acme/robot-deployment/config",
		"/git/github.com//acme/robot-deployment/info/refs",
		"/git/github.com/acme/robot-deployment/info/refs?service=git-upload-pack%0a--x",
		"/git/github.com/acme/robot-deployment/info/refs?service=git-upload-archive",
	} {
		statuses, all := v.send(getLine(path))
		if len(statuses) != 1 || !clientError(statuses[0]) {
			t.Errorf("%.80s: statuses %v, want one refusal\n%.300s", path, statuses, all)
		}
		if strings.Contains(all, "root:") || strings.Contains(all, `"channels"`) || strings.Contains(all, "\r\nLocation:") {
			t.Errorf("%.80s leaks or redirects:\n%.300s", path, all)
		}
	}
	v.survived()
}

// clientError: it is the client's fault, and there is nothing to follow.
func clientError(status int) bool { return status >= 400 && status < 500 }

// Requests that two HTTP parsers may read differently.
func TestHostileRequests(t *testing.T) {
	v := newVictim(t)
	const last = "GET /v2/ HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n"
	post := "POST " + hostileGit + "/git-upload-pack HTTP/1.1\r\nHost: relay\r\nContent-Type: application/x-git-upload-pack-request\r\n"
	manifest := "GET /v2/acme/robot-app/manifests/v1.5.4 HTTP/1.1\r\n"
	for _, tc := range []trick{
		{"absolute form", "GET http://ghcr.io/v2/acme/robot-app/manifests/v1.5.4 HTTP/1.1\r\nHost: docker.io\r\nConnection: close\r\n\r\n", []int{200}},
		{"absolute form, unknown host", "GET http://example.com/v2/acme/robot-app/manifests/v1.5.4 HTTP/1.1\r\nHost: ghcr.io\r\nConnection: close\r\n\r\n", []int{404}},
		{"absolute form, file", "GET file:///etc/passwd HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n", []int{404}},
		{"CONNECT", "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\nConnection: close\r\n\r\n", []int{404}},
		{"no target", "GET HTTP/1.1\r\nHost: relay\r\n\r\n", []int{400}},
		{"target without a slash", "GET v2/ HTTP/1.1\r\nHost: relay\r\n\r\n", []int{400}},
		{"space in the target", "GET /v2/ x HTTP/1.1\r\nHost: relay\r\n\r\n", []int{400}},
		{"two Host lines", manifest + "Host: ghcr.io\r\nHost: docker.io\r\n\r\n" + last, []int{400}},
		{"no Host", manifest + "Connection: close\r\n\r\n", []int{400}},
		{"Host with a path", manifest + "Host: ghcr.io/../x\r\nConnection: close\r\n\r\n", []int{400}},
		{"Host with user", manifest + "Host: x@ghcr.io\r\nConnection: close\r\n\r\n", []int{400}},
		{"X-Forwarded-Host counts for nothing", manifest + "Host: docker.io\r\nX-Forwarded-Host: ghcr.io\r\nX-Original-URL: /v2/\r\nConnection: close\r\n\r\n", []int{404}},
		{"method override counts for nothing", "GET /v2/ HTTP/1.1\r\nHost: relay\r\nX-HTTP-Method-Override: PUT\r\nConnection: close\r\n\r\n", []int{200}},
		{"space before the colon", manifest + "Host: ghcr.io\r\nContent-Length : 5\r\n\r\nhello" + last, []int{400}},
		{"control character in a header", manifest + "Host: ghcr.io\r\nX-A: a\x00b\r\n\r\n" + last, []int{400}},
		{"carriage return in a header", manifest + "Host: ghcr.io\r\nX-A: a\rX-B: b\r\n\r\n" + last, []int{400}},
		{"huge header", manifest + "Host: ghcr.io\r\nX-A: " + strings.Repeat("a", 200<<10) + "\r\n\r\n", []int{431}},
		{"many headers", manifest + "Host: ghcr.io\r\n" + strings.Repeat("X-A: a\r\n", 20<<10) + "\r\n", []int{431}},
		{"header without end", manifest + "Host: ghcr.io\r\nX-A: " + strings.Repeat("a", 4<<20), []int{431}},
		{"two lengths", post + "Content-Length: 4\r\nContent-Length: 5\r\n\r\n0000" + last, []int{400}},
		{"length with a sign", post + "Content-Length: +4\r\n\r\n0000" + last, []int{400}},
		{"negative length", post + "Content-Length: -1\r\n\r\n" + last, []int{400}},
		{"length beyond 63 bits", post + "Content-Length: 99999999999999999999\r\n\r\n", []int{400}},
		{"unknown transfer encoding", post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + last, []int{501}},
		{"two transfer encodings", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + last, []int{501}},
		{"transfer encoding list", post + "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n" + last, []int{501}},
		{"chunk that is no number", post + "Transfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n" + last, []int{400}},
		{"chunk beyond 64 bits", post + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nab\r\n0\r\n\r\n" + last, []int{400}},
		{"chunk without its end", post + "Transfer-Encoding: chunked\r\n\r\n2\r\nabcd0\r\n\r\n" + last, []int{400}},
		{"endless chunk extension", post + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1;"+strings.Repeat("x", 2000)+"\r\na\r\n", 200) + "0\r\n\r\n" + last, []int{400}},
		{"upload", "PUT /v2/ghcr.io/acme/robot-app/manifests/v1 HTTP/1.1\r\nHost: relay\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}", []int{405}},
		{"push", "GET " + hostileGit + "/info/refs?service=git-receive-pack HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n", []int{403}},
		{"Git-Protocol with another command", "GET " + hostileGit + "/info/refs?service=git-upload-pack HTTP/1.1\r\nHost: relay\r\nGit-Protocol: version=2;touch x:version=9\r\nConnection: close\r\n\r\n", []int{200}},
		{"HTTP/2 preface without TLS", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []int{400, 404, 405, 505}},
		{"HTTP/0.9", "GET /v2/\r\n", []int{400}},
		{"not HTTP", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x00", 200), []int{400}},
	} {
		statuses, all := v.send(tc.raw)
		if len(statuses) != 1 || !slices.Contains(tc.want, statuses[0]) {
			t.Errorf("%s: statuses %v, want one of %v\n%.300s", tc.name, statuses, tc.want, all)
		}
	}
	v.smuggle(post)
	v.survived()
}

// smuggle sends requests with two lengths. RFC 9112 section 6.1: the chunks count, and the connection ends with the answer,
// so that a proxy in front which went by the other length cannot be made to take a hidden request for the next client's.
func (v *victim) smuggle(post string) {
	v.t.Helper()
	const hidden = "GET /v2/ghcr.io/acme/robot-app/manifests/v1.5.4 HTTP/1.1\r\nHost: relay\r\n\r\n"
	for name, raw := range map[string]string{
		"hidden behind the chunks": fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n%s", 5+len(hidden), hidden),
		"hidden in the chunks":     fmt.Sprintf("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(hidden), hidden),
	} {
		statuses, all := v.send(post + raw)
		if len(statuses) != 1 || strings.Contains(all, "Docker-Content-Digest") {
			v.t.Errorf("a request %s: statuses %v, want one answer, not to the hidden one\n%.600s", name, statuses, all)
		}
	}
}

// Ranges that ask for much more than there is.
func TestHostileRanges(t *testing.T) {
	v := newVictim(t)
	many := func(n int, one string) string { return "bytes=" + strings.TrimSuffix(strings.Repeat(one+",", n), ",") }
	for name, header := range map[string]string{
		"a thousand bytes":          many(1000, "0-0"),
		"a thousand whole contents": many(1000, "0-"),
		"overlapping":               "bytes=0-,1-,2-,3-,4-,5-,6-,7-,8-",
		"suffixes":                  many(1000, "-1000000"),
		"beyond 64 bits":            "bytes=0-18446744073709551616",
		"backwards":                 "bytes=9-0",
		"nothing":                   "bytes=,,,,",
		"eight thousand":            many(8000, "5-6"),
	} {
		statuses, all := v.send("GET " + v.blob + " HTTP/1.1\r\nHost: relay\r\nRange: " + header + "\r\nConnection: close\r\n\r\n")
		if len(statuses) != 1 || !slices.Contains([]int{200, 206, 416, 431}, statuses[0]) {
			t.Errorf("%s: statuses %v", name, statuses)
		}
		// Parts have headers of their own, so a little more than the content may be sent.
		if int64(len(all)) > v.size+v.size/2+(256<<10) {
			t.Errorf("%s: %d bytes for a blob of %d", name, len(all), v.size)
		}
	}
	v.survived()
}

// Bodies of Git requests that ask for much more work than they took to send.
func TestHostileGitBodies(t *testing.T) {
	v := newVictim(t)
	for name, body := range gitBombs() {
		var b bytes.Buffer
		fmt.Fprintf(&b, "POST %s/git-upload-pack HTTP/1.1\r\nHost: relay\r\nContent-Type: application/x-git-upload-pack-request\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n",
			hostileGit, body.headers, len(body.data))
		b.Write(body.data)
		statuses, all := v.send(b.String())
		if len(statuses) != 1 || statuses[0] >= 500 || body.refused && !clientError(statuses[0]) {
			t.Errorf("%s: statuses %v\n%.300s", name, statuses, all)
		}
		if len(all) > 64<<10 {
			t.Errorf("%s: %d bytes were answered", name, len(all))
		}
	}
	v.survived()
}

// gitBomb is the body of a request for a pack.
type gitBomb struct {
	headers string
	data    []byte
	refused bool // with a status; else git says what is wrong, in its protocol
}

func gitBombs() map[string]gitBomb {
	wants := func(n int, first string) (lines []string) {
		for i := range n {
			lines = append(lines, fmt.Sprintf("want %040x%s\n", i+1, first))
			first = ""
		}
		return lines
	}
	v0 := pktLines(append(wants(50_000, " multi_ack_detailed side-band-64k"), "", "done\n")...)
	v2 := pktLines(append(append([]string{"command=fetch", "|"}, wants(50_000, "")...), "done\n", "")...)
	prefixes := []string{"command=ls-refs\n", "|"}
	for i := range 100_000 {
		prefixes = append(prefixes, fmt.Sprintf("ref-prefix %d\n", i))
	}
	return map[string]gitBomb{
		"wants, v0":       {"", v0, false},
		"wants, v2":       {gitV2, v2, false},
		"ref prefixes":    {gitV2, pktLines(append(prefixes, "")...), false},
		"gzip bomb":       {"Content-Encoding: gzip\r\n", zipped(1 << 30), true},
		"gzip of garbage": {"Content-Encoding: gzip\r\n", []byte("\x1f\x8b\x08garbage"), true},
		"unknown coding":  {"Content-Encoding: zstd\r\n", []byte("x"), true},
	}
}

// zipped is a gzip stream of n zeros.
func zipped(n int64) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.CopyN(w, zeros{}, n) // into memory
	_ = w.Close()
	return b.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
