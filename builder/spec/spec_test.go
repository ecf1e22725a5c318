package spec

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const head = "apiVersion: plimsoll.dev/v1\nkind: Bundle\nmetadata: {name: robot-stack, version: v1.5.4}\n"

func TestParseFillsIn(t *testing.T) {
	digest := "sha256:" + strings.Repeat("ab", 32)
	src := `apiVersion: plimsoll.dev/v1
kind: Bundle
metadata:
  name: robot-stack
  version: 1.5.4+factory
  created: 2026-01-31T09:00:00+01:00
spec:
  source: {url: "git@github.com:acme/robot-stack.git", revision: 4f2c}
  platforms: [linux/amd64, linux/arm/v7]
  images:
    - ghcr.io/acme/robot-app:v1.5.4
    - {ref: "docker.io/nginx:1.29", platforms: [linux/arm64]}
    - ref: "registry.local:5000/a/b:v1@` + digest + `"
      as: acme/b:stable
    - ghcr.io/acme/pinned@` + digest + `
  charts:
    - path: charts/x
    - {path: /srv/y.tgz, as: ghcr.io/acme/charts/y}
    - {ref: "oci://ghcr.io/acme/charts/z:1.2.3+b"}
  git:
    - {url: "https://GitHub.com/acme/robot-deployment.git", refs: [main, "v*"], head: main}
    - {url: "git@github.com:acme/other"}
    - {url: ../robots, as: git.acme.example/robots.git}
  files:
    - path: Site-Notes.md
    - {path: ../b/model.bin, name: weights.bin, as: acme/weights}
`
	b, err := Parse("dir/bundle.yaml", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	created := time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC)
	if !b.Metadata.Created.Equal(created) || b.Metadata.Created.Location() != time.UTC || b.Tag() != "1.5.4_factory" {
		t.Errorf("created %v, tag %s", b.Metadata.Created, b.Tag())
	}
	var got []string
	for _, i := range b.Spec.Images {
		got = append(got, fmt.Sprintf("%s → %s:%s %v line %d", i.Reference, i.Repository, i.Tag, i.Platforms, i.Position.Line))
	}
	for _, c := range b.Spec.Charts {
		got = append(got, fmt.Sprintf("%s%s → %s line %d", b.Path(c.Path), c.Reference, b.ChartRepository(c, "x"), c.Position.Line))
	}
	for _, g := range b.Spec.Git {
		got = append(got, fmt.Sprintf("%s → %s %v", g.URL, g.Repository, g.Local))
	}
	for _, f := range b.Spec.Files {
		got = append(got, fmt.Sprintf("%s → %s %s", b.Path(f.Path), f.Repository, f.Name))
	}
	want := []string{
		"ghcr.io/acme/robot-app:v1.5.4 → ghcr.io/acme/robot-app:v1.5.4 [linux/amd64 linux/arm/v7] line 11",
		"docker.io/library/nginx:1.29 → docker.io/library/nginx:1.29 [linux/arm64] line 12",
		"registry.local:5000/a/b:v1@" + digest + " → acme/b:stable [linux/amd64 linux/arm/v7] line 13",
		"ghcr.io/acme/pinned@" + digest + " → ghcr.io/acme/pinned: [linux/amd64 linux/arm/v7] line 15",
		"dir/charts/x → plimsoll/robot-stack/charts/x line 17",
		"/srv/y.tgz → ghcr.io/acme/charts/y line 18",
		"dirghcr.io/acme/charts/z:1.2.3_b → ghcr.io/acme/charts/z line 19",
		"https://GitHub.com/acme/robot-deployment.git → github.com/acme/robot-deployment false",
		"git@github.com:acme/other → github.com/acme/other false",
		"../robots → git.acme.example/robots true",
		"dir/Site-Notes.md → plimsoll/robot-stack/files/site-notes.md Site-Notes.md",
		"b/model.bin → acme/weights weights.bin",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestParseErrors(t *testing.T) {
	for _, tc := range []struct{ name, src, want string }{
		{"empty", "", "b.yaml: the file is empty, want a bundle that starts with apiVersion: plimsoll.dev/v1"},
		{"only a comment", "# x\n", "b.yaml: the file is empty, want a bundle that starts with apiVersion: plimsoll.dev/v1"},
		{"not a mapping", "[]", "b.yaml:1:1: a list, want a mapping with apiVersion, kind, metadata, spec"},
		{"not UTF-8", head + "a\xffb", "b.yaml:4:2: byte 0xff, want UTF-8 text without control characters"},
		{"control character", head + "spec: \"ä\x1b[2J\"", "b.yaml:4:9: byte 0x1b, want UTF-8 text without control characters"},
		{"not YAML", head + "spec:\n  images: [\n", "b.yaml:5:1: not valid YAML: did not find expected node content"},
		{"two documents", head + "spec: {images: [a.b/c:1]}\n---\nx: 1\n", "b.yaml:5:1: a second YAML document starts here, want one bundle in a file"},
		{"broken second document", head + "spec: {images: [a.b/c:1]}\n---\n{", "b.yaml:6:1: not valid YAML: did not find expected node content"},
		{"too large", strings.Repeat("#", MaxSize+1), "b.yaml: 1048577 bytes, the limit is 1048576"},
		{"too deep", strings.Repeat("- ", 18) + "x", "b.yaml:1:1: a list, want a mapping with apiVersion, kind, metadata, spec\nb.yaml:1:35: lists and mappings in each other deeper than 16"},
		{"long value", head + "spec: {images: [" + strings.Repeat("a", 2049) + "]}", "b.yaml:4:17: a value of 2049 bytes, the limit is 2048\nb.yaml:4:17: spec.images[0].ref: empty, want text"},
		{"anchor and alias", head + "spec: {images: [&a x.io/a:1, *a]}", "b.yaml:4:17: anchor &a: anchors and aliases are not allowed\nb.yaml:4:30: alias *a: anchors and aliases are not allowed, want the value itself"},
		{"merge key", head + "spec: {<<: {images: []}, images: [a.b/c:1]}", "b.yaml:4:8: spec: merge key <<: not allowed, want the fields themselves"},
		{"tag", head + "spec: {images: [!!str a.b/c:1]}", "b.yaml:4:17: tag !!str: tags are not allowed"},
		{"terminal escapes", head + "spec: {\"\\e[2J\": 1, images: [!%1B%22 a.b/c:1]}", `b.yaml:4:8: spec.\x1b[2J: unknown field, want one of source, platforms, images, charts, git, artifacts, files, closure` + "\n" + `b.yaml:4:29: tag !\x1b": tags are not allowed` + "\n" + `b.yaml:4:29: spec.images[0]: "a.b/c:1", want a mapping with ref, as, platforms`},
		{"mapping as a key", head + "spec: {? {a: b} : c, images: [a.b/c:1]}", "b.yaml:4:10: spec: a mapping as the name of a field, want one of source, platforms, images, charts, git, artifacts, files, closure"},

		{"missing fields", "kind: Bundle", "b.yaml:1:1: apiVersion: missing, want it here\nb.yaml:1:1: metadata: missing, want it here\nb.yaml:1:1: spec: missing, want it here"},
		{"other version", strings.Replace(head, "/v1", "/v2", 1) + "spec: {images: [a.b/c:1]}", `b.yaml:1:13: apiVersion: "plimsoll.dev/v2", want "plimsoll.dev/v1"`},
		{"other kind", strings.Replace(head, "kind: Bundle", "kind: Pod", 1) + "spec: {images: [a.b/c:1]}", `b.yaml:2:7: kind: "Pod", want "Bundle"`},
		{"near miss", head + "spec: {imagse: [a.b/c:1]}", `b.yaml:4:8: spec.imagse: unknown field, want one of source, platforms, images, charts, git, artifacts, files, closure: did you mean "images"?`},
		{"upper case", head + "Spec: {}", "b.yaml:1:1: spec: missing, want it here\n" + `b.yaml:4:1: Spec: unknown field, want one of apiVersion, kind, metadata, spec: did you mean "spec"?`},
		{"unknown", head + "spec: {images: [{ref: a.b/c:1, secret: x}]}", `b.yaml:4:32: spec.images[0].secret: unknown field, want one of ref, as, platforms`},
		{"twice", head + "spec:\n  images: [a.b/c:1]\n  images: [a.b/d:1]", "b.yaml:6:3: spec.images: written twice, want it once: the first is in line 5"},
		{"nothing", head + "spec: {}", "b.yaml:4:7: spec: nothing to carry, want images, charts, git, artifacts or files"},
		{"null list", head + "spec:\n  images:\n", "b.yaml:5:10: spec.images: empty, want a list"},
		{"no list", head + "spec: {images: a.b/c:1}", `b.yaml:4:16: spec.images: "a.b/c:1", want a list`},
		{"null item", head + "spec: {images: [~]}", "b.yaml:4:17: spec.images[0]: empty, want a mapping with ref, as, platforms"},
		{"number", strings.Replace(head, "v1.5.4", "1.10", 1) + "spec: {images: [a.b/c:1]}", `b.yaml:3:40: metadata.version: the number 1.10, want text: write it in quotes, "1.10"`},
		{"truth", head + "spec: {files: [{path: true}]}", `b.yaml:4:23: spec.files[0].path: the truth value true, want text: write it in quotes, "true"`},
		{"list as text", head + "spec: {files: [{path: [a]}]}", "b.yaml:4:23: spec.files[0].path: a list, want text"},
		{"empty text", head + "spec: {files: [{path: ''}]}", "b.yaml:4:23: spec.files[0].path: empty, want text"},

		{"name", strings.Replace(head, "robot-stack", "Robot/Stack", 1) + "spec: {files: [{path: a}]}", `b.yaml:3:18: metadata.name: "Robot/Stack", want at most 64 lower-case letters and digits, with single '.', '_' or '-' between them`},
		{"version", strings.Replace(head, "v1.5.4", "v 1", 1) + "spec: {images: [a.b/c:1]}", `b.yaml:3:40: metadata.version: "v 1", want at most 128 letters, digits, '.', '_', '+' and '-', as in v1.5.4`},
		{"created", strings.Replace(head, "v1.5.4", "v1, created: 2026-01-31", 1) + "spec: {images: [a.b/c:1]}", `b.yaml:3:53: metadata.created: the time 2026-01-31, want a time as in 2026-01-31T08:00:00Z, whole seconds, 1970 or later`},
		{"source", head + "spec: {source: {url: 'https://u:p@h/x', revision: \"a\\nb\"}, images: [a.b/c:1]}", `b.yaml:4:22: spec.source.url: "https://u:xxxxx@h/x" holds credentials, want them in git's credential helper: a bundle.yaml is read by many` + "\n" + `b.yaml:4:51: spec.source.revision: "a\nb", want one line of text`},
		{"platform", head + "spec: {platforms: [linux/x86_64, linux, linux/arm64, linux/arm64, linux/armhf], images: [a.b/c:1]}",
			`b.yaml:4:20: spec.platforms[0]: "linux/x86_64", want os/architecture[/variant] as in linux/arm64: did you mean "linux/amd64"?` + "\n" +
				`b.yaml:4:34: spec.platforms[1]: "linux", want os/architecture[/variant] as in linux/arm64` + "\n" +
				`b.yaml:4:54: spec.platforms[3]: "linux/arm64" is written twice, want it once: the first is in line 4` + "\n" +
				`b.yaml:4:67: spec.platforms[4]: "linux/armhf", want os/architecture[/variant] as in linux/arm64: did you mean "linux/arm/v7"?`},
		{"image platform", head + "spec: {images: [{ref: a.b/c:1, platforms: [linux/z80]}]}", `b.yaml:4:44: spec.images[0].platforms[0]: "linux/z80", want os/architecture[/variant] as in linux/arm64`},

		{"no registry", head + "spec: {images: [nginx:1]}", `b.yaml:4:17: spec.images[0].ref: "nginx:1" names no registry, want it written out, as in docker.io/library/nginx:1`},
		{"no registry but a folder", head + "spec: {images: [acme/x:1]}", `b.yaml:4:17: spec.images[0].ref: "acme/x:1" names no registry, want it written out, as in docker.io/acme/x:1`},
		{"no tag", head + "spec: {images: [ghcr.io/acme/x]}", `b.yaml:4:17: spec.images[0].ref: "ghcr.io/acme/x" has no tag, want registry/repository:tag as in ghcr.io/acme/robot-app:v1.5.4`},
		{"scheme", head + "spec: {images: ['oci://ghcr.io/acme/x:1']}", `b.yaml:4:17: spec.images[0].ref: "oci://ghcr.io/acme/x:1" has a scheme, want registry/repository:tag as in ghcr.io/acme/robot-app:v1.5.4`},
		{"upper-case repository", head + "spec: {images: [ghcr.io/Acme/x:1]}", `b.yaml:4:17: spec.images[0].ref: "ghcr.io/Acme/x:1" is not an OCI reference, want registry/repository:tag as in ghcr.io/acme/robot-app:v1.5.4`},
		{"bad tag", head + "spec: {images: ['ghcr.io/acme/x:1+2']}", `b.yaml:4:17: spec.images[0].ref: "ghcr.io/acme/x:1+2" is not an OCI reference, want registry/repository:tag as in ghcr.io/acme/robot-app:v1.5.4`},
		{"bad digest", head + "spec: {images: ['ghcr.io/acme/x@sha256:12']}", `b.yaml:4:17: spec.images[0].ref: "ghcr.io/acme/x@sha256:12": "sha256:12" is not a digest, want sha256: and 64 lower-case hexadecimal digits`},
		{"bad as", head + "spec: {images: [{ref: a.b/c:1, as: 'A B'}]}", `b.yaml:4:36: spec.images[0].as: "A B": not the name of an OCI repository, want repository[:tag] as in ghcr.io/acme/robot-app:v1.5.4`},
		{"bad tag in as", head + "spec: {images: [{ref: a.b/c:1, as: 'x/y:a+b'}]}", `b.yaml:4:36: spec.images[0].as: "x/y:a+b": "a+b" is not a tag, want repository[:tag] as in ghcr.io/acme/robot-app:v1.5.4`},
		{"same place", head + "spec:\n  images:\n    - a.b/c:1\n    - {ref: a.b/d:1, as: a.b/c}\n", "b.yaml:7:26: spec.images[1].as: a.b/c:1 is already taken by spec.images[0].ref in line 6, want another place: see as"},
		{"chart in the place of an image", head + "spec: {images: [a.b/c:1], charts: [{ref: oci://a.b/c:1}]}", "b.yaml:4:42: spec.charts[0].ref: a.b/c:1 is already taken by spec.images[0].ref in line 4, want another place: see as"},

		{"chart of both", head + "spec: {charts: [{path: a, ref: oci://a.b/c:1}]}", "b.yaml:4:32: spec.charts[0].ref: next to path, want exactly one of path, ref and repository"},
		{"chart of none", head + "spec: {charts: [{as: a.b/c}]}", "b.yaml:4:17: spec.charts[0]: none of path, ref, repository, want exactly one of path, ref and repository"},
		{"local image without as", head + "spec: {images: ['oci:../images:v1']}", `b.yaml:4:17: spec.images[0].ref: "oci:../images:v1" is on this machine, want as: where the site serves it, as in ghcr.io/acme/robot-app:v1.5.4`},
		{"local image without a tag", head + "spec: {images: [{ref: 'docker-archive:x.tar', as: a.b/c}]}", `b.yaml:4:51: spec.images[0].as: "docker-archive:x.tar" is on this machine, want as: where the site serves it, as in ghcr.io/acme/robot-app:v1.5.4`},
		{"local image without a file", head + "spec: {images: [{ref: 'oci-archive:', as: a.b/c:1}]}", `b.yaml:4:23: spec.images[0].ref: reference "oci-archive:": want the name of a file or folder behind oci-archive:`},
		{"classic chart without version", head + "spec: {charts: [{repository: 'https://c.io', name: x}]}", `b.yaml:4:17: spec.charts[0]: repository without name and version, want all three`},
		{"classic chart version", head + "spec: {charts: [{repository: 'https://c.io', name: x, version: newest}]}", `b.yaml:4:64: spec.charts[0].version: "newest", want a version or a constraint as in 15.3.1 or ~15.3`},
		{"classic chart with a password", head + "spec: {charts: [{repository: 'https://a:b@c.io', name: x, version: '1'}]}", `b.yaml:4:30: spec.charts[0].repository: "https://a:xxxxx@c.io" holds credentials, want them in the docker configuration: a bundle.yaml is read by many`},
		{"classic chart in a registry", head + "spec: {charts: [{repository: 'oci://c.io/x', name: x, version: '1'}]}", `b.yaml:4:30: spec.charts[0].repository: "oci://c.io/x", want the URL of a chart repository as in https://charts.example.com; a chart in an OCI registry is a ref`},
		{"version of a folder", head + "spec: {charts: [{path: x, version: '1'}]}", `b.yaml:4:36: spec.charts[0].version: without repository, want it only next to the URL of a chart repository`},
		{"values", head + "spec: {charts: [{path: x, values: [\"a\\u200eb\"]}]}", `b.yaml:4:36: spec.charts[0].values[0]: "a\u200eb", want a path without control characters`},
		{"render that climbs", head + "spec: {git: [{url: 'https://a.b/c', renders: [{chart: /x, release: A_B}]}]}", `b.yaml:4:55: spec.git[0].renders[0].chart: "/x", want a clean path without .., as in robot-values/*.yaml` + "\n" + `b.yaml:4:68: spec.git[0].renders[0].release: "A_B", want a DNS label of Kubernetes (RFC 1123)`},
		{"all allowed", head + "spec: {images: [a.b/c:1], closure: {kubeVersion: new, allowExternal: [{ref: '*/*', reason: x}]}}", `b.yaml:4:50: spec.closure.kubeVersion: "new", want a version as in "1.33"` + "\n" + `b.yaml:4:77: spec.closure.allowExternal[0].ref: "*/*", want a reference: what is allowed must be named`},
		{"no reason", head + "spec: {images: [a.b/c:1], closure: {allowExternal: [{ref: a.b/d}]}}", `b.yaml:4:53: spec.closure.allowExternal[0].reason: missing, want it here`},
		{"artifact in the place of an image", head + "spec: {images: [a.b/c:1], artifacts: [a.b/c:1]}", `b.yaml:4:39: spec.artifacts[0].ref: a.b/c:1 is already taken by spec.images[0].ref in line 4, want another place: see as`},
		{"chart ref", head + "spec: {charts: [{ref: a.b/c:1}]}", `b.yaml:4:23: spec.charts[0].ref: "a.b/c:1", want oci://registry/repository:version as in oci://ghcr.io/acme/charts/robot-app:1.2.3`},
		{"chart ref without registry", head + "spec: {charts: [{ref: oci://c:1}]}", `b.yaml:4:23: spec.charts[0].ref: "oci://c:1" is not a chart reference, want oci://registry/repository:version as in oci://ghcr.io/acme/charts/robot-app:1.2.3`},
		{"chart by digest only", head + "spec: {charts: [{ref: 'oci://a.b/c@sha256:" + strings.Repeat("a", 64) + "'}]}", `b.yaml:4:23: spec.charts[0].ref: "oci://a.b/c@sha256:` + strings.Repeat("a", 64) + `" has no version, want oci://registry/repository:version as in oci://ghcr.io/acme/charts/robot-app:1.2.3`},
		{"chart as with a tag", head + "spec: {charts: [{path: c, as: 'a.b/c:1'}]}", `b.yaml:4:31: spec.charts[0].as: "a.b/c:1", want a repository as in ghcr.io/acme/charts/robot-app: the tag is the chart's version`},
		{"chart path", head + "spec: {charts: [{path: \"a\\u200eb\"}]}", `b.yaml:4:24: spec.charts[0].path: "a\u200eb", want a path without control characters`},

		{"git option", head + "spec: {git: [{url: --upload-pack=x, as: a.b/c}]}", `b.yaml:4:20: spec.git[0].url: "--upload-pack=x" is not allowed, want a Git URL as in https://github.com/acme/robot-deployment.git`},
		{"git command", head + "spec: {git: [{url: 'ext::sh -c x'}]}", `b.yaml:4:20: spec.git[0].url: "ext::sh -c x" is not allowed, want a Git URL as in https://github.com/acme/robot-deployment.git`},
		{"ssh option", head + "spec: {git: [{url: 'ssh://-oProxyCommand=x/y'}]}", `b.yaml:4:20: spec.git[0].url: "ssh://-oProxyCommand=x/y" is not understood, want a Git URL as in https://github.com/acme/robot-deployment.git`},
		{"ssh option in short form", head + "spec: {git: [{url: 'a@-x:y'}]}", `b.yaml:4:20: spec.git[0].url: "a@-x:y" is not understood, want a Git URL as in https://github.com/acme/robot-deployment.git`},
		{"broken URL", head + "spec: {git: [{url: 'https://a b/c'}]}", `b.yaml:4:20: spec.git[0].url: "https://a b/c" is not understood, want a Git URL as in https://github.com/acme/robot-deployment.git`},
		{"git scheme", head + "spec: {git: [{url: 'ftp://a/b'}]}", `b.yaml:4:20: spec.git[0].url: scheme "ftp" is not allowed, want https, ssh, http, git or file`},
		{"token in the URL", head + "spec: {git: [{url: 'https://token@a.b/c'}]}", `b.yaml:4:20: spec.git[0].url: "https://token@a.b/c" holds credentials, want them in git's credential helper: a bundle.yaml is read by many`},
		{"local without as", head + "spec: {git: [{url: ../r}]}", `b.yaml:4:20: spec.git[0].url: "../r" is on this machine, want as: where the site serves it, as in github.com/acme/robot-deployment`},
		{"git as", head + "spec: {git: [{url: ../r, as: robots}]}", `b.yaml:4:30: spec.git[0].as: "robots", want a place to serve it as in github.com/acme/robot-deployment`},
		{"git twice", head + "spec: {git: [{url: 'https://a.b/c'}, {url: 'https://a.b/c.git'}]}", "b.yaml:4:44: spec.git[1].url: a.b/c is already taken by spec.git[0].url in line 4, want another place: see as"},
		{"git refs", head + "spec: {git: [{url: 'https://a.b/c', refs: [-x, a..b, refs/pull/1, main, main]}]}",
			`b.yaml:4:44: spec.git[0].refs[0]: "-x", want a branch or a tag, as in main, v* or refs/tags/v1.*` + "\n" +
				`b.yaml:4:48: spec.git[0].refs[1]: "a..b", want a branch or a tag, as in main, v* or refs/tags/v1.*` + "\n" +
				`b.yaml:4:54: spec.git[0].refs[2]: "refs/pull/1", want a branch or a tag, as in main, v* or refs/tags/v1.*` + "\n" +
				`b.yaml:4:73: spec.git[0].refs[4]: "main" is written twice, want it once: the first is in line 4`},
		{"git head", head + "spec: {git: [{url: 'https://a.b/c', head: refs/tags/x}]}", `b.yaml:4:43: spec.git[0].head: "refs/tags/x", want the name of a branch`},
		{"git head not carried", head + "spec: {git: [{url: 'https://a.b/c', refs: [canary, v*], head: main}]}", `b.yaml:4:63: spec.git[0].head: "main" is not among refs, want a branch that is carried: canary, v*`},

		{"file name", head + "spec: {files: [{path: a, name: b/c}]}", `b.yaml:4:32: spec.files[0].name: "b/c", want a file name without folders`},
		{"folder as a file", head + "spec: {files: [{path: ..}]}", `b.yaml:4:23: spec.files[0].path: "..", want a file name without folders`},
		{"file that no repository can be named after", head + "spec: {files: [{path: Größe.md}]}", `b.yaml:4:23: spec.files[0].path: "Größe.md" cannot stand in the name of an OCI repository, want as: as in acme/site-notes`},
		{"file as", head + "spec: {files: [{path: a, as: 'x/a:1'}]}", `b.yaml:4:30: spec.files[0].as: "x/a:1", want a repository as in acme/site-notes: the tag is the bundle's version`},
		{"files in one place", head + "spec: {files: [{path: a/n.md}, {path: b/N.md}]}", "b.yaml:4:39: spec.files[1].path: plimsoll/robot-stack/files/n.md:v1.5.4 is already taken by spec.files[0].path in line 4, want another place: see as"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, err := Parse("b.yaml", []byte(tc.src))
			if err == nil {
				t.Fatalf("accepted as %+v, want\n%s", b, tc.want)
			}
			if err.Error() != tc.want {
				t.Errorf("got\n%s\nwant\n%s", err, tc.want)
			}
		})
	}
}

func TestErrorsAreTypedSortedAndBounded(t *testing.T) {
	src := head + "spec:\n  images:\n" + strings.Repeat("    - x\n", 30) + "  bad: 1\n"
	_, err := Parse("b.yaml", []byte(src))
	var list ErrorList
	if !errors.As(err, &list) || len(list) != MaxErrors+1 {
		t.Fatalf("got %d errors: %v", len(list), err)
	}
	if got, want := list[MaxErrors].Error(), "b.yaml:26:7: and 11 more errors from here on"; got != want {
		t.Errorf("last error %q, want %q", got, want)
	}
	var e *Error
	if !errors.As(err, &e) || e.File != "b.yaml" || e.Line != 6 || e.Column != 7 || e.Field != "spec.images[0].ref" {
		t.Errorf("first error %+v", e)
	}
}

func TestPositionServesLaterErrors(t *testing.T) {
	b, err := Parse("b.yaml", []byte(head+"spec:\n  images:\n    - ref: a.b/c:1\n"))
	if err != nil {
		t.Fatal(err)
	}
	later := b.Spec.Images[0].Position.Wrap("ref", fmt.Errorf("pull a.b/c:1: %w", os.ErrNotExist))
	if later.Error() != "b.yaml:6:7: spec.images[0].ref: pull a.b/c:1: file does not exist" || !errors.Is(later, os.ErrNotExist) {
		t.Errorf("got %q", later)
	}
}

func TestWants(t *testing.T) {
	for _, tc := range []struct {
		pattern, ref string
		want         bool
	}{
		{"main", "refs/heads/main", true},
		{"main", "refs/tags/main", true},
		{"main", "refs/heads/maintenance", false},
		{"main", "refs/heads/a/main", false},
		{"v*", "refs/tags/v1.5.4", true},
		{"v*", "refs/heads/v/1", true},
		{"v*.4", "refs/tags/v1.5.4", true},
		{"v*.4", "refs/tags/v1.5.5", false},
		{"*a*b*", "refs/heads/xaxbx", true},
		{"*a*b", "refs/heads/xaxbx", false},
		{"*", "refs/pull/1/head", false},
		{"refs/tags/v*", "refs/tags/v1", true},
		{"refs/tags/v*", "refs/heads/v1", false},
		{strings.Repeat("*a", 500) + "b", "refs/heads/" + strings.Repeat("a", 1000), false}, // ends, and soon
	} {
		if got := (Git{Refs: []string{tc.pattern}}).Wants(tc.ref); got != tc.want {
			t.Errorf("Wants(%.20q, %.20q) = %v", tc.pattern, tc.ref, got)
		}
	}
	if all := (Git{}); !all.Wants("refs/tags/x") || all.Wants("refs/pull/1/head") {
		t.Error("no refs must mean all branches and tags, and nothing else")
	}
}

func TestExamplesParse(t *testing.T) {
	for _, file := range exampleFiles(t) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b, err := Parse(file, data)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, path := range namedPaths(b) {
			matches, err := filepath.Glob(b.Path(path))
			if err != nil || len(matches) == 0 {
				t.Errorf("%s: %s is not there: %v", file, path, err)
			}
		}
	}
}

// namedPaths are the files and folders that must be in a checkout; those in download/ are fetched by a CI job.
func namedPaths(b *Bundle) []string {
	var paths []string
	for _, c := range b.Spec.Charts {
		paths = append(paths, c.Values...)
		if c.Path != "" {
			paths = append(paths, c.Path)
		}
	}
	for _, f := range b.Spec.Files {
		if !strings.HasPrefix(f.Path, "download/") {
			paths = append(paths, f.Path)
		}
	}
	return paths
}

func exampleFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../../examples/*/bundle*.yaml")
	if err != nil || len(files) < 7 {
		t.Fatalf("example files: %v, %v", files, err)
	}
	return files
}

// TestHostileShapesEndSoon feeds shapes on which YAML parsers are known to take quadratic time or deep recursion. The
// bound is generous; a quadratic parser needs minutes for a megabyte.
func TestHostileShapesEndSoon(t *testing.T) {
	for _, unit := range []string{"[", "{", "- ", "? ", "a: ", "&a ", "*a ", "!a ", "#\n", "-\n", "x\n", "'", "\"", "a: b\n", "[a,", "{a: [", "- #\n", "%Y\n", "---\n", "|\n", " ", "\t", "a: |\n  b\n", "-1: *", "[]: "} {
		src := strings.Repeat(unit, MaxSize/len(unit))
		start := time.Now()
		_, err := Parse("b.yaml", []byte(src))
		if err == nil {
			t.Errorf("%q repeated was accepted", unit)
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("%q repeated took %v", unit, d)
		}
	}
}
