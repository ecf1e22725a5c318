package hooks

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func options() Options {
	return Options{Relay: "plant7", Version: "v1.2.3", Names: []string{"relay.plant7.example", "fd00::7"}}
}

func activation(h Hook) news {
	channels, refs := difference(sample(), after()).resolve(h, after())
	return news{after(), channels, refs}
}

func mustRequests(t *testing.T, o Options, h Hook, n news) []request {
	t.Helper()
	if err := h.Validate(); err != nil {
		t.Fatal(err)
	}
	all, left, err := o.requests(h, n)
	if err != nil || left != 0 {
		t.Fatal(left, err)
	}
	return all
}

// The signatures were computed by another program: openssl dgst -sha256 -hmac correct-horse-battery testdata/NAME.
func TestBodiesAndSignatures(t *testing.T) {
	for _, c := range []struct {
		hook      Hook
		file      string
		header    string
		signature string
	}{
		{webhook("mes", "https://mes.example/in"), "webhook.json", SignatureHeader, "sha256=fbe5498a31ee49d8bddeb8655012c0c2a37b775c50f1d61bf57adaddfd87b5aa"},
		{Hook{Name: "flux", Type: FluxReceiver, URL: "https://flux.example/hook/0123", Secret: testSecret}, "webhook.json", "X-Signature", "sha256=fbe5498a31ee49d8bddeb8655012c0c2a37b775c50f1d61bf57adaddfd87b5aa"},
		{Hook{Name: "argo", Type: ArgoCDWebhook, URL: "https://argocd.example/", Secret: testSecret}, "push.json", "X-Hub-Signature-256", "sha256=82d506731ad9ab5e5438fb8ac64e0518c1e4f1c0234325beb65b43d29180c6c4"},
	} {
		r := mustRequests(t, options(), c.hook, activation(c.hook))[0]
		path := filepath.Join("testdata", c.file)
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(r.body) != string(want) {
			t.Errorf("%s: the body is\n%s\nwant\n%s", c.hook.Name, r.body, want)
		}
		if got := r.header.Get(c.header); got != c.signature {
			t.Errorf("%s: %s: %s, want %s", c.hook.Name, c.header, got, c.signature)
		}
		if r.method != "POST" || r.header.Get("Content-Type") != "application/json" || r.header.Get("User-Agent") != "plimsoll-relay/v1.2.3" {
			t.Errorf("%s: %s %v", c.hook.Name, r.method, r.header)
		}
	}
}

func TestWebhook(t *testing.T) {
	h := webhook("mes", "https://mes.example/in?plant=7")
	h.Token = testToken
	all := mustRequests(t, options(), h, activation(h))
	if len(all) != 1 || all[0].url != "https://mes.example/in?plant=7" || all[0].header.Get(EventHeader) != "activation" ||
		all[0].header.Get(DeliveryHeader) != "2/stable" || all[0].header.Get("Authorization") != "Bearer "+testToken {
		t.Errorf("%+v", all)
	}
	// Two channels are two requests; refs without a channel are one.
	two := after()
	two.Channels = append(two.Channels, Channel{"vulndb", Release{"vulndb", "2027.1", "sha256:db"}})
	if all := mustRequests(t, options(), h, news{served: two, channels: difference(sample(), two).Channels}); len(all) != 2 || all[1].key != "vulndb" {
		t.Errorf("%+v", all)
	}
	if all := mustRequests(t, options(), h, news{served: after(), refs: difference(sample(), after()).Refs}); len(all) != 1 ||
		strings.Contains(string(all[0].body), `"channel"`) || !strings.Contains(string(all[0].body), "refs/tags/v2") {
		t.Errorf("%s", all[0].body)
	}
	h.Secret, h.InsecureUnsigned = "", true
	if r := mustRequests(t, options(), h, activation(h))[0]; r.header.Get(SignatureHeader) != "" {
		t.Error("signed without a secret")
	}
}

func TestPayloadIsBounded(t *testing.T) {
	n := news{served: sample()}
	for i := range maxPayloadRefs + 1 {
		n.refs = append(n.refs, changedRef{"github.com/acme/deploy", fmt.Sprintf("refs/tags/t%05d", i), ""})
	}
	body := string(mustRequests(t, options(), webhook("mes", "https://mes.example"), n)[0].body)
	if !strings.Contains(body, `"truncated":true`) || strings.Count(body, "refs/tags/") != maxPayloadRefs {
		t.Errorf("%d refs", strings.Count(body, "refs/tags/"))
	}
	h := Hook{Name: "argo", Type: ArgoCDWebhook, URL: "https://argocd.example", Secret: "s", RepositoryPrefixes: []string{"https://"}}
	n.refs = append(n.refs, changedRef{"github.com/acme/deploy", "refs/heads/main", oid2})
	all, left, err := options().requests(h, n)
	if err != nil || len(all) != maxEvents || left != 2 || !strings.HasSuffix(all[0].subject, "refs/heads/main") {
		t.Errorf("%d events, %d left, %v; first is %s", len(all), left, err, all[0].subject)
	}
}

func TestArgoCDWebhook(t *testing.T) {
	h := Hook{Name: "argo", Type: ArgoCDWebhook, URL: "https://argocd.example/argo-cd/", Secret: testSecret}
	var subjects []string
	bodies := make(map[string]string)
	for _, r := range mustRequests(t, options(), h, activation(h)) {
		if r.url != "https://argocd.example/argo-cd/api/webhook" || r.header.Get("X-GitHub-Event") != "push" {
			t.Errorf("%s %v", r.url, r.header)
		}
		subjects = append(subjects, r.subject)
		bodies[r.subject] = string(r.body)
	}
	// Branches first, each repository by all names that an application may have it under.
	var want []string
	for _, ref := range []string{"deploy refs/heads/main", "infra refs/heads/main", "deploy refs/tags/v2"} {
		for _, prefix := range []string{"https://", "https://relay.plant7.example/git/"} {
			want = append(want, prefix+"github.com/acme/"+ref)
		}
	}
	if strings.Join(subjects, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(subjects, "\n"), strings.Join(want, "\n"))
	}
	for subject, parts := range map[string][]string{
		"https://github.com/acme/infra refs/heads/main": {`"before":"` + oid2 + `"`, `"after":"` + noObject + `"`, `"deleted":true`, `"created":false`},
		"https://github.com/acme/deploy refs/tags/v2":   {`"before":"` + noObject + `"`, `"after":"` + oid3 + `"`, `"deleted":false`, `"created":true`},
	} {
		for _, part := range parts {
			if !strings.Contains(bodies[subject], part) {
				t.Errorf("%s: no %s in %s", subject, part, bodies[subject])
			}
		}
	}
	h.RepositoryPrefixes, h.URL = []string{"https://git.plant7.example/"}, "https://argocd.example/api/webhook"
	if r := mustRequests(t, options(), h, activation(h))[0]; r.url != "https://argocd.example/api/webhook" || !strings.Contains(string(r.body), `"html_url":"https://git.plant7.example/github.com/acme/deploy"`) {
		t.Errorf("%s %s", r.url, r.body)
	}
	// A release of images alone has nothing for Argo CD's webhook.
	if all := mustRequests(t, options(), h, news{served: after(), channels: []changed{{Channel: "stable"}}}); len(all) != 0 {
		t.Errorf("%+v", all)
	}
}

func TestArgoCDRefresh(t *testing.T) {
	h := Hook{Name: "argo", Type: ArgoCDRefresh, URL: "https://argocd.example/root/", Token: testToken, Applications: []string{"robot-app", "team-a/other"}}
	got := func(all []request) (urls []string) {
		for _, r := range all {
			if r.method != "GET" || r.header.Get("Authorization") != "Bearer "+testToken || len(r.body) > 0 {
				t.Errorf("%+v", r)
			}
			urls = append(urls, r.url)
		}
		return urls
	}
	const base = "https://argocd.example/root/api/v1/applications/"
	if urls := got(mustRequests(t, options(), h, activation(h))); fmt.Sprint(urls) != "["+base+"robot-app?refresh=normal "+base+"other?appNamespace=team-a&refresh=normal]" {
		t.Error(urls)
	}
	h.Hard = true
	if urls := got(mustRequests(t, options(), h, activation(h))); urls[0] != base+"robot-app?refresh=hard" {
		t.Error(urls)
	}
	probes, err := options().probes(h)
	if urls := got(probes); err != nil || urls[0] != base+"robot-app" {
		t.Error(urls, err)
	}
}

func TestFluxReceiver(t *testing.T) {
	h := Hook{Name: "flux", Type: FluxReceiver, URL: "https://flux.example/hook/0123"}
	r := mustRequests(t, options(), h, activation(h))[0]
	if r.url != "https://flux.example/hook/0123" || r.header.Get("X-Signature") != "" {
		t.Errorf("%+v", r)
	}
}

func TestProbes(t *testing.T) {
	probes, err := options().probes(Hook{Name: "argo", Type: ArgoCDWebhook, URL: "https://argocd.example", Secret: testSecret})
	if err != nil || len(probes) != 1 || probes[0].header.Get("X-GitHub-Event") != "ping" || probes[0].header.Get("X-Hub-Signature-256") == "" {
		t.Errorf("%+v, %v", probes, err)
	}
	probes, err = options().probes(webhook("mes", "https://mes.example"))
	if err != nil || len(probes) != 1 || string(probes[0].body) != `{"event":"test","relay":"plant7","generation":0,"repositories":[]}` || probes[0].header.Get(EventHeader) != "test" {
		t.Errorf("%+v, %v", probes, err)
	}
}
