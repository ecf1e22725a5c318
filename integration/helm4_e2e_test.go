//go:build e2e

package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const helm4 = "helm.sh/helm/v4/cmd/helm@v4.3.1"

// Helm 4's own program logs in, shows, pulls and renders a chart from the relay.
func TestHelm4(t *testing.T) {
	s := newSite(t)
	s.must("import", s.bundle("v1.5.4"))
	s.start()
	program, dir := install(t, helm4), t.TempDir()
	helm := func(stdin string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
		cmd.Env = append(os.Environ(), "HOME="+dir, "HELM_REGISTRY_CONFIG="+filepath.Join(dir, "registry.json"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("helm %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	helm(s.password, "registry", "login", s.relay.Addr, "--username", robot, "--password-stdin", "--ca-file", s.relay.CAFile)
	at := "oci://" + s.relay.Addr + "/" + chart
	if out := helm("", "show", "chart", at, "--ca-file", s.relay.CAFile); !strings.Contains(out, "name: robot-app") {
		t.Errorf("show: %s", out)
	}
	helm("", "pull", at, "--version", chartVersion(t), "--ca-file", s.relay.CAFile)
	if out := helm("", "template", "robot", filepath.Join(dir, "robot-app-"+chartVersion(t)+".tgz")); !strings.Contains(out, app+":v1.5.4") {
		t.Errorf("template: %s", out)
	}
}
