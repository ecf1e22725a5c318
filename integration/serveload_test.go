package integration

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/internal/loadgen"
)

// process is a server that runs beside a test: the relay, or a peer that it is compared with.
type process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	log  logBuffer
	addr string // host:port
	ca   string // file, when it speaks TLS

	repository string // that holds the images, as this server calls it
	headers    string // lines that its clients send with each request
	admin      string // host:port of the administration of a relay
}

// startProcess starts a server that prints its address on a line of its own, or listens on addr when that is given.
func startProcess(t testing.TB, name, addr string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, name: name, cmd: cmd, addr: addr}
	cmd.Stderr = &p.log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	if addr != "" {
		p.listening()
		return p
	}
	r := bufio.NewReader(stdout)
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, p.log.String())
	}
	go io.Copy(io.Discard, r) //nolint:errcheck // until the process ends
	line = strings.TrimSpace(line)
	if _, after, ok := strings.Cut(line, "://"); ok {
		line = after
	}
	p.addr = line
	return p
}

// listening waits until the server takes connections.
func (p *process) listening() {
	p.t.Helper()
	for range 1000 {
		conn, err := net.Dial("tcp", p.addr)
		if err == nil {
			_ = conn.Close() // it was only to see
			return
		}
		<-time.After(5 * time.Millisecond)
	}
	p.t.Fatalf("%s does not listen on %s\n%s", p.name, p.addr, p.log.String())
}

func (p *process) stop() {
	if p.cmd == nil {
		return
	}
	p.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
	killer := time.AfterFunc(5*time.Second, func() { p.cmd.Process.Kill() })
	p.cmd.Wait() //nolint:errcheck // of the signal
	killer.Stop()
	p.cmd = nil
}

// family is the process and its children: nginx answers from children.
func (p *process) family() []int {
	p.t.Helper()
	pid := p.cmd.Process.Pid
	all := []int{pid}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		p.t.Fatal(err)
	}
	for _, task := range tasks {
		data, err := os.ReadFile(task)
		if err != nil {
			continue // a thread that ended
		}
		for _, field := range strings.Fields(string(data)) {
			if child, err := strconv.Atoi(field); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

// memory is what one line of /proc/PID/status says, in bytes: VmHWM is the peak of what was resident, VmRSS what is.
func (p *process) memory(field string) (total int64) {
	p.t.Helper()
	for _, pid := range p.family() {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue // a child that ended
		}
		for line := range strings.Lines(string(data)) {
			if rest, ok := strings.CutPrefix(line, field+":"); ok {
				var kib int64
				if _, err := fmt.Sscan(rest, &kib); err != nil {
					p.t.Fatalf("%q: %v", line, err)
				}
				total += kib << 10
			}
		}
	}
	return total
}

// startRelay runs plimsoll-relay serve over plain HTTP, with more flags. Whoever asks is answered.
func (s *site) startRelay(args ...string) *process {
	s.t.Helper()
	return s.startServe(append(args, "--insecure-plain-http", "--insecure-anonymous")...)
}

// startGuardedRelay runs plimsoll-relay serve over plain HTTP, for robots with a password: its clients are one of them.
func (s *site) startGuardedRelay(args ...string) *process {
	s.t.Helper()
	p := s.startServe(append(args, "--insecure-plain-http")...)
	p.headers = s.account("good-robot")
	return p
}

// account makes an account and gives the header line by which it is proved.
func (s *site) account(name string) string {
	s.t.Helper()
	password := s.secret("robot", "add", name)
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password)) + "\r\n"
}

// relayPrefix stands before the names of the images that a relay serves.
const relayPrefix = "ghcr.io/acme/"

func (s *site) startServe(args ...string) *process {
	s.t.Helper()
	admin := freeAddress(s.t)
	args = append([]string{"serve", "--data", s.data, "--listen", "127.0.0.1:0", "--admin-listen", admin, "--site", "test"}, args...)
	p := startProcess(s.t, "relay", "", s.command("plimsoll-relay", args...).Cmd)
	p.admin, p.repository = admin, relayPrefix
	return p
}

// freeAddress is an address of the loopback interface on which nobody listens now, for servers that cannot choose one.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // the next one takes it
	return l.Addr().String()
}

var loadgenBuilt struct {
	sync.Once
	err error
}

// loadgen is the path of the load generator's program.
func (f *fixture) loadgen(t testing.TB) string {
	t.Helper()
	loadgenBuilt.Do(func() {
		build := exec.Command("go", "build", "-o", f.bin+"/", "./internal/loadgen/loadgen")
		build.Dir = ".."
		if out, err := build.CombinedOutput(); err != nil {
			loadgenBuilt.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if loadgenBuilt.err != nil {
		t.Fatal(loadgenBuilt.err)
	}
	return filepath.Join(f.bin, "loadgen")
}

// load lets a process of its own do a plan against a server.
func (f *fixture) load(p *process, plan loadgen.Plan) *loadgen.Result {
	p.t.Helper()
	plan.Address, plan.CAFile, plan.Headers = p.addr, p.ca, p.headers
	input, err := json.Marshal(plan)
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.CommandContext(p.t.Context(), f.loadgen(p.t))
	cmd.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		p.t.Fatalf("loadgen: %v\n%s", err, stderr.Bytes())
	}
	var res loadgen.Result
	if err := json.Unmarshal(out, &res); err != nil {
		p.t.Fatalf("loadgen: %v\n%s", err, out)
	}
	return &res
}

// pktLines are data in the framing of gitprotocol-common(5); "" is a flush packet and "|" a delimiter packet.
func pktLines(lines ...string) []byte {
	var b bytes.Buffer
	for _, line := range lines {
		switch line {
		case "":
			b.WriteString("0000")
		case "|":
			b.WriteString("0001")
		default:
			fmt.Fprintf(&b, "%04x%s", len(line)+4, line)
		}
	}
	return b.Bytes()
}

const (
	gitV2          = "Git-Protocol: version=2\r\n"
	uploadPackBody = "Content-Type: application/x-git-upload-pack-request\r\nAccept: application/x-git-upload-pack-result\r\n"
)

// lsRemoteV2 is what git ls-remote sends: the capabilities, then the refs.
func lsRemoteV2(path string) []loadgen.Request {
	return []loadgen.Request{
		{Method: "GET", Path: path + "/info/refs?service=git-upload-pack", Headers: gitV2},
		{
			Method: "POST", Path: path + "/git-upload-pack", Headers: gitV2 + uploadPackBody,
			Body: pktLines("command=ls-refs\n", "agent=git/2.39.5", "object-format=sha1", "|", "peel\n", "symrefs\n", ""),
		},
	}
}

// get gives the body of an answer that must be a 200.
func get(t testing.TB, url string) []byte {
	t.Helper()
	resp, err := http.Get(url) //nolint:gosec,noctx // of a server of this test
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read from
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s, %v\n%s", url, resp.Status, err, data)
	}
	return data
}
