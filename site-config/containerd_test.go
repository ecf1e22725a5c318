package siteconfig

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"

	"github.com/plimsoll/plimsoll/relay/siteca"
)

func TestContainerdHosts(t *testing.T) {
	for _, address := range []string{"relay.plant7.example", "relay:8443", "10.1.2.3", "[fd00::1]:443"} {
		got, err := ContainerdHosts(Relay{Address: address, CAFile: "/etc/plimsoll/ca.crt"})
		if err != nil || !strings.Contains(string(got), `server = "https://`+address+`"`) || !strings.Contains(string(got), `ca = "/etc/plimsoll/ca.crt"`) {
			t.Errorf("%s: %s (%v)", address, got, err)
		}
	}
	good := Relay{Address: "relay", CAFile: "/ca"}
	for name, change := range map[string]func(*Relay){
		"no address": func(r *Relay) { r.Address = "" }, "a quote": func(r *Relay) { r.Address = "relay\"\n[host]" },
		"port 0": func(r *Relay) { r.Address = "relay:0" }, "port 99999": func(r *Relay) { r.Address = "relay:99999" },
		"a URL": func(r *Relay) { r.Address = "https://relay" }, "a dash": func(r *Relay) { r.Address = "-x" },
		"relative CA": func(r *Relay) { r.CAFile = "ca" }, "no CA": func(r *Relay) { r.CAFile = "" },
		"a quote in CA": func(r *Relay) { r.CAFile = "/c\"a" }, "a line in CA": func(r *Relay) { r.CAFile = "/c\na" }, "not UTF-8": func(r *Relay) { r.CAFile = "/c\xff" },
		"no key": func(r *Relay) { r.ClientCertFile = "/c" }, "no certificate": func(r *Relay) { r.ClientKeyFile = "/k" },
		"a quote in a key": func(r *Relay) { r.ClientCertFile, r.ClientKeyFile = "/c", "/k\"" },
		"a scheme":         func(r *Relay) { r.Authorization = "Negotiate abc" }, "no token": func(r *Relay) { r.Authorization = "Bearer " },
		"a quote in a token": func(r *Relay) { r.Authorization = "Bearer a\"" }, "a line in a token": func(r *Relay) { r.Authorization = "Bearer a\nb" },
	} {
		r := good
		change(&r)
		if got, err := ContainerdHosts(r); err == nil {
			t.Errorf("%s: %+v was rendered:\n%s", name, r, got)
		} else if _, secret, _ := strings.Cut(r.Authorization, " "); secret != "" && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error shows the secret", name)
		}
	}
}

// containerd itself reads the file and asks the relay for what it says, with what it says.
func TestContainerdReadsIt(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	ca, err := siteca.Open(filepath.Join(dir, "tls"), "plant-7", now)
	if err != nil {
		t.Fatal(err)
	}
	client, err := ca.Client("agv-17", time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	keeper, err := siteca.NewKeeper(filepath.Join(dir, "tls"), "plant-7", siteca.KeeperOptions{Names: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"ca.crt": ca.PEM(), "client.crt": client.CertPEM, "client.key": client.KeyPEM}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var seen []string
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		name := ""
		for _, chain := range r.TLS.VerifiedChains {
			name = chain[0].Subject.CommonName
		}
		seen = []string{r.URL.String(), name, r.Header.Get("Authorization")}
	}))
	server.TLS = keeper.TLSConfig()
	server.StartTLS()
	defer server.Close()

	base := Relay{Address: server.Listener.Addr().String(), CAFile: filepath.Join(dir, "ca.crt")}
	withCert, withToken, withBasic := base, base, base
	withCert.ClientCertFile, withCert.ClientKeyFile = filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key")
	withToken.Authorization = Bearer("plimsoll_abc")
	withBasic.Authorization = Basic("agv-17", "pass:word")
	for _, c := range []struct {
		relay          Relay
		name, received string
	}{{base, "", ""}, {withCert, "agv-17", ""}, {withToken, "", "Bearer plimsoll_abc"}, {withBasic, "", "Basic YWd2LTE3OnBhc3M6d29yZA=="}} {
		text, err := ContainerdHosts(c.relay)
		if err != nil {
			t.Fatal(err)
		}
		certs := t.TempDir()
		if err := os.MkdirAll(filepath.Join(certs, "ghcr.io"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(certs, "ghcr.io", "hosts.toml"), text, 0o644); err != nil {
			t.Fatal(err)
		}
		hosts, err := config.ConfigureHosts(t.Context(), config.HostOptions{HostDir: config.HostDirFromRoot(certs)})("ghcr.io")
		if err != nil || len(hosts) != 1 {
			t.Fatalf("%s\n%v hosts, %v", text, len(hosts), err)
		}
		h := hosts[0]
		if h.Scheme != "https" || h.Host != base.Address || h.Path != "/v2" || h.Capabilities != docker.HostCapabilityPull|docker.HostCapabilityResolve {
			t.Errorf("%s\ngives %+v", text, h)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodHead, h.Scheme+"://"+h.Host+h.Path+"/acme/app/manifests/v1?ns=ghcr.io", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = h.Header.Clone()
		if req.Header == nil {
			req.Header = http.Header{}
		}
		if err := h.Authorizer.Authorize(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		resp, err := h.Client.Do(req)
		if err != nil {
			t.Fatalf("%s\n%v", text, err)
		}
		resp.Body.Close() //nolint:errcheck // nothing in it
		h.Client.CloseIdleConnections()
		if want := []string{"/v2/acme/app/manifests/v1?ns=ghcr.io", c.name, c.received}; !slices.Equal(seen, want) {
			t.Errorf("%s\nsends %q, want %q", text, seen, want)
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
	f.Add("relay.plant7.example:8443", "/etc/plimsoll/ca.crt", "", "", "")
	f.Add("relay\"", "/ca\n", "/c", "/k", "Bearer x")
	f.Fuzz(func(t *testing.T, address, ca, cert, key, authorization string) {
		got, err := ContainerdHosts(Relay{address, ca, cert, key, authorization})
		if err != nil {
			return
		}
		lines, quotes := 6, 4+2*2 // server, ca, two capabilities
		if cert != "" {
			lines, quotes = lines+1, quotes+4
		}
		if authorization != "" {
			lines, quotes = lines+3, quotes+2
		}
		if strings.Count(string(got), "\n")+1 != lines || strings.Count(string(got), `"`) != quotes {
			t.Errorf("%q, %q, %q, %q and %q give\n%s", address, ca, cert, key, authorization, got)
		}
	})
}
