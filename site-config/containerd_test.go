package siteconfig

import (
	"strings"
	"testing"
)

func TestContainerdHosts(t *testing.T) {
	for _, address := range []string{"relay.plant7.example", "relay:8443", "10.1.2.3", "[fd00::1]:443"} {
		got, err := ContainerdHosts(Relay{Address: address, CAFile: "/etc/plimsoll/ca.crt"})
		if err != nil || !strings.Contains(string(got), `server = "https://`+address+`"`) || !strings.Contains(string(got), `ca = "/etc/plimsoll/ca.crt"`) {
			t.Errorf("%s: %s (%v)", address, got, err)
		}
	}
	for _, bad := range []Relay{
		{"", "/ca"}, {"relay\"\n[host]", "/ca"}, {"relay:0", "/ca"}, {"relay:99999", "/ca"}, {"https://relay", "/ca"}, {"-x", "/ca"},
		{"relay", "ca"}, {"relay", ""}, {"relay", "/c\"a"}, {"relay", "/c\na"},
	} {
		if got, err := ContainerdHosts(bad); err == nil {
			t.Errorf("%+v was rendered:\n%s", bad, got)
		}
	}
}

func TestCheckUpstream(t *testing.T) {
	for name, want := range map[string]bool{"ghcr.io": true, "registry.example.com:5000": true, "..": false, "a/b": false, "": false, ".": false} {
		if err := CheckUpstream(name); (err == nil) != want {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func FuzzContainerdHosts(f *testing.F) {
	f.Add("relay.plant7.example:8443", "/etc/plimsoll/ca.crt")
	f.Add("relay\"", "/ca\n")
	f.Fuzz(func(t *testing.T, address, ca string) {
		got, err := ContainerdHosts(Relay{Address: address, CAFile: ca})
		if err != nil {
			return
		}
		if lines := strings.Split(string(got), "\n"); len(lines) != 6 || strings.Count(lines[0], `"`) != 2 || strings.Count(lines[2], `"`) != 2 {
			t.Errorf("%q and %q give\n%s", address, ca, got)
		}
	})
}
