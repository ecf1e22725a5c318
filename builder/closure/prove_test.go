package closure

import (
	"reflect"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/bundle"
)

const (
	hex  = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	hexB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

var oid = strings.Repeat("a", 40)

func carried() []Item {
	return []Item{
		{Name: "ghcr.io/acme/app:v1", Kind: bundle.KindImage, Repository: "ghcr.io/acme/app", Tags: []string{"v1"}, Digests: []string{hex}},
		{Name: "docker.io/library/nginx:latest", Kind: bundle.KindImage, Repository: "docker.io/library/nginx", Tags: []string{"latest"}},
		{Name: "ghcr.io/acme/charts/app:1.2.3_b", Kind: bundle.KindChart, Repository: "ghcr.io/acme/charts/app", Tags: []string{"1.2.3_b"}, Chart: "app", Version: "1.2.3+b"},
		{Name: "charts.example.com/mqtt:2.0.1", Kind: bundle.KindChart, Repository: "charts.example.com/mqtt", Tags: []string{"2.0.1"}, Chart: "mqtt", Version: "2.0.1", Source: "https://charts.example.com/"},
		{Name: "ghcr.io/acme/models/grasp:v3", Kind: bundle.KindArtifact, Repository: "ghcr.io/acme/models/grasp", Tags: []string{"v3"}},
		{Name: "github.com/acme/deploy", Kind: bundle.KindGit, Repository: "github.com/acme/deploy", Source: "git@github.com:acme/deploy.git",
			Git: &bundle.Git{Head: "refs/heads/main", Refs: []bundle.GitRef{{Name: "refs/heads/main", OID: oid}, {Name: "refs/tags/v1.5.4", OID: strings.Repeat("b", 40), Peeled: strings.Repeat("c", 40)}}}},
	}
}

func TestSatisfied(t *testing.T) {
	for _, r := range []Reference{
		{Kind: KindImage, Ref: "ghcr.io/acme/app:v1"},
		{Kind: KindImage, Ref: "ghcr.io/acme/app@" + hex},
		{Kind: KindImage, Ref: "ghcr.io/acme/app:other@" + hex}, // a node asks by the digest
		{Kind: KindImage, Ref: "nginx"},
		{Kind: KindImage, Ref: "docker.io/nginx:latest"},
		{Kind: KindImage, Ref: "index.docker.io/library/nginx"},
		{Kind: KindImage, Ref: "ghcr.io/acme/models/grasp:v3"},
		{Kind: KindChart, Ref: "oci://ghcr.io/acme/charts/app", Version: "1.2.3+b"},
		{Kind: KindChart, Ref: "oci://ghcr.io/acme/charts/app", Version: "1.x"},
		{Kind: KindChart, Ref: "oci://ghcr.io/acme/charts/app"},
		{Kind: KindChart, Ref: "https://charts.example.com", Chart: "mqtt", Version: "~2.0"},
		{Kind: KindGit, Ref: "https://github.com/acme/deploy"},
		{Kind: KindGit, Ref: "https://GitHub.com:443/acme/deploy.git/", Version: "main"},
		{Kind: KindGit, Ref: "ssh://git@github.com/acme/deploy", Version: "v1.5.4"},
		{Kind: KindGit, Ref: "git::https://github.com/acme/deploy", Version: "refs/tags/v1.5.4"},
		{Kind: KindGit, Ref: "https://github.com/acme/deploy", Version: strings.Repeat("c", 40)},
		{Kind: KindGit, Ref: "https://github.com/acme/deploy", Version: "1.5.x"},
		{Kind: KindGit, Ref: "https://github.com/acme/deploy", Version: "deadbee"},
	} {
		v := Prove(&Answer{References: []Reference{r}}, Options{
			Items:     carried(),
			Reachable: func(item, commit string) bool { return item == "github.com/acme/deploy" && commit == "deadbee" },
		})
		if len(v.Gaps) != 0 || len(v.Closure.Needs) != 1 || v.Closure.Needs[0].Item == "" {
			t.Errorf("%+v: gaps %+v", r, v.Gaps)
		}
	}
}

func TestGaps(t *testing.T) {
	for _, tc := range []struct {
		ref             Reference
		suggestion, add string
	}{
		{Reference{Kind: KindImage, Ref: "ghcr.io/acme/app:v2"}, "the bundle carries ghcr.io/acme/app:v1; add this one too, or use that one", "- ghcr.io/acme/app:v2"},
		{Reference{Kind: KindImage, Ref: "ghcr.io/acme/app@" + hexB}, "the bundle carries ghcr.io/acme/app:v1; add", "- ghcr.io/acme/app@" + hexB},
		{Reference{Kind: KindImage, Ref: "robot-app:v1"}, "nodes ask for docker.io/library/robot-app:v1; add it to images, or name its registry", "- docker.io/library/robot-app:v1"},
		{Reference{Kind: KindImage, Ref: "Not An Image"}, "this is not an image reference", ""},
		{Reference{Kind: KindChart, Ref: "oci://ghcr.io/acme/charts/app", Version: "2.0.0"}, "the bundle carries ghcr.io/acme/charts/app:1.2.3_b, not version 2.0.0", "- ref: oci://ghcr.io/acme/charts/app:2.0.0"},
		{Reference{Kind: KindChart, Ref: "https://charts.example.com", Chart: "redis", Version: "1.0.0"}, "add it to charts", "- repository: https://charts.example.com\n  name: redis\n  version: \"1.0.0\""},
		{Reference{Kind: KindGit, Ref: "https://github.com/acme/deploy", Version: "canary"}, "the bundle carries github.com/acme/deploy without canary; add it to refs", ""},
		{Reference{Kind: KindGit, Ref: "https://github.com/acme/deploy", Version: "deadbee"}, "without deadbee", ""},
		{Reference{Kind: KindGit, Ref: "https://github.com/acme/other", Version: "main"}, "add it to git", "- url: https://github.com/acme/other\n  refs: [\"main\"]"},
	} {
		v := Prove(&Answer{References: []Reference{tc.ref}}, Options{Items: carried()})
		if len(v.Gaps) != 1 || !strings.Contains(v.Gaps[0].Suggestion, tc.suggestion) || v.Gaps[0].Add != tc.add {
			t.Errorf("%+v: %+v", tc.ref, v.Gaps)
		}
	}
}

func TestAllowed(t *testing.T) {
	a := &Answer{
		References: []Reference{
			{Kind: KindImage, Ref: "registry.k8s.io/pause:3.10", Place: Place{File: "b.yaml", Line: 2}},
			{Kind: KindImage, Ref: "registry.k8s.io/pause:3.10", Place: Place{File: "a.yaml", Line: 7}},
			{Kind: KindImage, Ref: "busybox", Place: Place{File: "a.yaml"}},
			{Kind: KindGit, Ref: "https://github.com/acme/other", Version: "main"},
		},
		Problems: []Problem{{Reason: "jsonnet is not rendered", Place: Place{Item: "github.com/acme/deploy", File: "x.jsonnet"}}},
	}
	v := Prove(a, Options{Items: carried(), External: []External{
		{"registry.k8s.io/*", "comes with k3s"}, {"docker.io/library/busybox:latest", "debugging only"},
		{"https://github.com/acme/other@main", "only at the test site"}, {"github.com/acme/deploy/x.jsonnet", "an experiment"}, {"quay.io/*", "old"},
	}})
	if len(v.Gaps) != 0 || len(v.Closure.Needs) != 4 || !reflect.DeepEqual(v.Unused, []External{{"quay.io/*", "old"}}) {
		t.Fatalf("%+v", v)
	}
	for _, n := range v.Closure.Needs {
		if n.Reason == "" || n.Item != "" {
			t.Errorf("%+v", n)
		}
		if n.Ref == "registry.k8s.io/pause:3.10" && (n.Count != 2 || n.Places[0].File != "a.yaml") {
			t.Errorf("places %+v", n)
		}
	}
}

func TestPlacesAreBounded(t *testing.T) {
	a := &Answer{}
	for i := range 50 {
		a.References = append(a.References, Reference{Kind: KindImage, Ref: "ghcr.io/acme/app:v1", Place: Place{File: "x", Line: 50 - i}})
	}
	n := Prove(a, Options{Items: carried()}).Closure.Needs[0]
	if n.Count != 50 || len(n.Places) != bundle.MaxPlaces || n.Places[0].Line != 1 {
		t.Errorf("%+v", n)
	}
}
