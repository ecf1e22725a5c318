package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Verification, import and serving open no connection: here they run where there is no network at all, not even a
// loopback interface.
func TestOffline(t *testing.T) {
	s := newSite(t)
	if out, err := exec.Command("unshare", "-n", "true").CombinedOutput(); err != nil {
		t.Skipf("a network namespace needs root and util-linux: %v: %s", err, out)
	}
	tar := filepath.Join(t.TempDir(), "bundle.tar")
	if _, err := s.run("plimsoll", "copy", s.bundle("v1.5.4"), tar); err != nil {
		t.Fatal(err)
	}
	isolated := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command("unshare", append([]string{"-n", filepath.Join(s.bin, name)}, args...)...)
		cmd.Env = s.env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	keys := []string{"--key", s.path("keys", "release.pub"), "--attestation-key", s.path("keys", "attest.pub")}
	isolated("plimsoll", append([]string{"verify", s.bundle("v1.5.4")}, keys...)...)
	isolated("plimsoll", append([]string{"verify", tar}, keys...)...)
	if out := isolated("plimsoll-relay", "import", tar, "--data", s.data); !strings.Contains(out, "active, generation 1") {
		t.Errorf("import: %s", out)
	}
	// Serving needs the loopback interface for its clients, and nothing else.
	script := `ip link set lo up || exit 9
plimsoll-relay serve --data "$1" --listen 127.0.0.1:8443 --admin-listen "" --site test >"$2/addr" 2>"$2/log" &
pid=$!
for i in $(seq 100); do [ -s "$2/addr" ] && break; sleep 0.1; done
GIT_SSL_CAINFO="$1/tls/ca.crt" git ls-remote "https://$3@127.0.0.1:8443/git/github.com/acme/robot-deployment" || { cat "$2/log"; kill $pid; exit 1; }
kill $pid; wait $pid`
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("serving offline needs ip (Debian: apt-get install iproute2)")
	}
	cmd := exec.Command("unshare", "-n", "sh", "-c", script, "sh", s.data, t.TempDir(), robot+":"+s.password)
	cmd.Env = append(s.env, "GIT_CONFIG_COUNT=0")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "refs/heads/main") {
		t.Errorf("serve: %v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(s.data, "active.json")); err != nil {
		t.Error(err)
	}
}
