package findings

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif"

	"github.com/plimsoll/plimsoll/builder/closure"
)

func sample() []Finding {
	place := func(file string, line int, revision, values string) closure.Place {
		return closure.Place{
			Item: "github.com/acme/robot-deployment", Revision: "refs/heads/" + revision, File: file, Line: line,
			Object: "Deployment robots/robot-app", Field: "spec.template.spec.initContainers[0].image", Values: []string{values},
		}
	}
	image := Finding{
		Rule: RuleMissingImage, Level: Error, Ref: "ghcr.io/acme/migrate:v3", Message: "no item of the bundle is ghcr.io/acme/migrate:v3",
		Suggestion: "add ghcr.io/acme/migrate:v3 under spec.images",
	}
	for i := range 7 {
		image.Places = append(image.Places, place("charts/robot-app/templates/deployment.yaml", 12, "main", fmt.Sprintf("robot-values/robot-%03d.yaml", 7-i)))
	}
	canary := image
	canary.Places = []closure.Place{place("charts/robot-app/templates/deployment.yaml", 14, "canary", "robot-values/robot-002.yaml"), image.Places[0]}
	return []Finding{
		{Rule: RuleSecret, Level: Warning, Message: "something that looks like a private key", Places: []closure.Place{{
			Item: "github.com/acme/robot-deployment", File: "secrets/of/the/whole/fleet/in/a/deep/folder/wifi-of-the-factory.yaml", Line: 3, Object: "Secret robots/wifi", By: "Application argocd/robot-001",
		}}},
		image, canary,
		{Rule: RuleMissingChart, Level: Error, Ref: "https://charts.example.com redis 1.2.3", Message: "the chart is not in the bundle"},
		{Rule: RuleNotRendered, Level: Error, Message: "values.robot.id is missing", Places: []closure.Place{{Item: "ghcr.io/acme/charts/x:1"}}},
	}
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	if err := Table(&b, sample()); err != nil {
		t.Fatal(err)
	}
	const want = `REFERENCE
  FILE:LINE                                         OBJECT                       VALUES OR ROBOT               IN

https://charts.example.com redis 1.2.3  [error: missing-chart]
  the chart is not in the bundle

ghcr.io/acme/migrate:v3  [error: missing-image]
  charts/robot-app/templates/deployment.yaml:14     Deployment robots/robot-app  robot-values/robot-002.yaml   github.com/acme/robot-deployment@canary
  charts/robot-app/templates/deployment.yaml:12     Deployment robots/robot-app  robot-values/robot-001.yaml   github.com/acme/robot-deployment@main
  charts/robot-app/templates/deployment.yaml:12     Deployment robots/robot-app  robot-values/robot-002.yaml   github.com/acme/robot-deployment@main
  charts/robot-app/templates/deployment.yaml:12     Deployment robots/robot-app  robot-values/robot-003.yaml   github.com/acme/robot-deployment@main
  charts/robot-app/templates/deployment.yaml:12     Deployment robots/robot-app  robot-values/robot-004.yaml   github.com/acme/robot-deployment@main
  and 3 more places
  no item of the bundle is ghcr.io/acme/migrate:v3
  → add ghcr.io/acme/migrate:v3 under spec.images

values.robot.id is missing  [error: not-rendered]
  -                                                 -                            -                             ghcr.io/acme/charts/x:1

something that looks like a private key  [warning: secret]
  secrets/of/the/whole/fleet/in/a/deep/folder/      Secret robots/wifi           Application argocd/robot-001  github.com/acme/robot-deployment
  wifi-of-the-factory.yaml:3
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s", got)
	}
	b.Reset()
	if err := Table(&b, nil); err != nil || b.Len() > 0 {
		t.Errorf("of nothing: %q, %v", b.String(), err)
	}
}

func TestWrap(t *testing.T) {
	text := strings.Repeat("word/", 30) + strings.Repeat("x", 100)
	for _, line := range wrap(text, 20) {
		if n := utf8.RuneCountInString(line); n > 20 {
			t.Errorf("line of %d: %q", n, line)
		}
	}
	if got := strings.Join(wrap(text, 20), ""); got != text {
		t.Errorf("got %q", got)
	}
}

// valid checks a log by a library that knows all of SARIF and has the schema of OASIS.
func valid(t *testing.T, data []byte) *sarif.Report {
	t.Helper()
	decode(t, data)
	report, err := sarif.FromBytes(data)
	if err != nil {
		t.Fatal(err)
	}
	// What the library writes where there is nothing, its schema refuses.
	run := report.Runs[0]
	run.Tool.Driver.Language, run.Language, run.NewlineSequences = "en-US", "en-US", []string{"\n"}
	if err := report.Validate(); err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	return report
}

// decode refuses fields that SARIF does not have.
func decode(t *testing.T, data []byte) *sarif.Run {
	t.Helper()
	var report sarif.Report
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&report); err != nil || len(report.Runs) != 1 || report.Version != "2.1.0" {
		t.Fatalf("%v\n%s", err, data)
	}
	return report.Runs[0]
}

func TestSARIF(t *testing.T) {
	var b bytes.Buffer
	if err := SARIF(&b, "v1.2.3", sample()); err != nil {
		t.Fatal(err)
	}
	run := valid(t, b.Bytes()).Runs[0]
	if len(run.Results) != 4 || len(run.Tool.Driver.Rules) != 4 || *run.Tool.Driver.Version != "v1.2.3" {
		t.Fatalf("got %s", b.String())
	}
	for _, rule := range run.Tool.Driver.Rules {
		if rule.Help == nil || *rule.Help.Text == "" || rule.FullDescription == nil {
			t.Errorf("rule %s has no help", *rule.ID)
		}
	}
	image := run.Results[1]
	if *image.RuleID != RuleMissingImage || *run.Tool.Driver.Rules[image.RuleIndex].ID != RuleMissingImage || image.Level != "error" {
		t.Errorf("result %+v", image)
	}
	at := image.Locations[0].PhysicalLocation
	if *at.ArtifactLocation.URI != "charts/robot-app/templates/deployment.yaml" || *at.ArtifactLocation.URIBaseID != "github.com/acme/robot-deployment" || *at.Region.StartLine != 14 {
		t.Errorf("location %s", b.String())
	}
	if _, ok := run.OriginalUriBaseIds["github.com/acme/robot-deployment"]; !ok || len(image.RelatedLocations) != 7 {
		t.Errorf("got %s", b.String())
	}
	logical := image.Locations[0].LogicalLocations
	if len(logical) != 2 || *logical[0].FullyQualifiedName != "Deployment robots/robot-app" || *logical[0].Name != "robot-app" {
		t.Errorf("got %s", b.String())
	}
	for _, r := range run.Results {
		if r.Locations[0].PhysicalLocation == nil {
			t.Errorf("%s has no file", *r.RuleID)
		}
	}
}

// A finding is the same one after lines moved and other robots came, and another one when something else is missing.
func TestFingerprints(t *testing.T) {
	prints := func(fs []Finding) map[string]string {
		var b bytes.Buffer
		if err := SARIF(&b, "", fs); err != nil {
			t.Fatal(err)
		}
		m := make(map[string]string)
		for _, r := range valid(t, b.Bytes()).Runs[0].Results {
			m[*r.Message.Text] = r.PartialFingerprints["plimsollFinding/v1"]
		}
		return m
	}
	before := prints(sample())
	moved := sample()
	for i := range moved {
		for j := range moved[i].Places {
			moved[i].Places[j].Line += 10
			moved[i].Places[j].Revision = "refs/heads/next"
		}
	}
	moved[1].Places = moved[1].Places[2:]
	after := prints(moved)
	distinct := make(map[string]bool)
	for text, print := range before {
		if after[text] != print {
			t.Errorf("%q: %s became %s", text, print, after[text])
		}
		distinct[print] = true
	}
	if len(distinct) != 4 {
		t.Errorf("%d fingerprints of 4 findings", len(distinct))
	}
}

func TestHostileFileNames(t *testing.T) {
	for file, want := range map[string]string{
		"../../etc/passwd": "etc/passwd", "/etc/passwd": "etc/passwd", "//evil.example/x": "evil.example/x",
		"javascript:alert(1)": "./javascript:alert%281%29", "a b\n%41?q#f": "a%20b%0A%2541%3Fq%23f", "\xff": "%FF",
	} {
		if got := relativeURI(file); got != want && got != strings.NewReplacer("%28", "(", "%29", ")").Replace(want) {
			t.Errorf("%q: got %q, want %q", file, got, want)
		}
	}
}

func TestSARIFIsBounded(t *testing.T) {
	fs := make([]Finding, MaxResults+3)
	for i := range fs {
		fs[i] = Finding{Rule: RuleMissingImage, Level: Error, Ref: fmt.Sprint("image-", i), Message: "missing"}
	}
	for i := range MaxLocations + 5 {
		fs[0].Places = append(fs[0].Places, closure.Place{Item: "x", File: "f", Line: i + 1})
	}
	var b bytes.Buffer
	if err := SARIF(&b, "", fs); err != nil {
		t.Fatal(err)
	}
	run := valid(t, b.Bytes()).Runs[0]
	if len(run.Results) != MaxResults || !strings.Contains(b.String(), "3 more findings left out") {
		t.Errorf("%d results", len(run.Results))
	}
	for _, r := range run.Results {
		if strings.HasPrefix(*r.Message.Text, "image-0:") && len(r.Locations)+len(r.RelatedLocations) != MaxLocations {
			t.Errorf("%d places", len(r.RelatedLocations))
		}
	}
}

func summary() Summary {
	return Summary{
		Name: "robot-stack", Version: "v1.5.4", Digest: "sha256:abc", Items: map[string]int{"image": 2, "chart": 1}, Bytes: 3 << 20, Signed: true,
		Closure: &Counts{Renderings: 4, Objects: 1, References: 6, Satisfied: 3, Allowed: 1, Missing: 2},
	}
}

func TestMarkdown(t *testing.T) {
	var b bytes.Buffer
	if err := Markdown(&b, "Release robot-stack", summary(), sample()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"## Release robot-stack\n",
		"| Bundle | `robot-stack` `v1.5.4` |\n| Digest | `sha256:abc` |\n| Items | 1 chart, 2 image |\n| Size | 3.0 MiB |\n| Signed | yes |\n",
		"| Complete | 4 renderings with 1 object need 6 references: 3 in the bundle, 1 allowed to come from elsewhere, 2 missing |\n",
		"### 3 errors, 1 warning\n",
		"| error | `ghcr.io/acme/migrate:v3` | `charts/robot-app/templates/deployment.yaml:14` in github.com/acme/robot-deployment&#64;canary<br>",
		"<br>and 3 more places |",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	checkMarkdown(t, b.String())
}

func TestMarkdownIsBounded(t *testing.T) {
	fs := make([]Finding, 5000)
	for i := range fs {
		fs[i] = Finding{Rule: RuleMissingImage, Level: Error, Ref: fmt.Sprintf("%05d%s", i, strings.Repeat("<", 3000)), Message: strings.Repeat("|", 3000)}
	}
	s := summary()
	s.Name, s.Version, s.Digest = strings.Repeat("n", 1<<20), strings.Repeat("v", 1<<20), strings.Repeat("d", 1<<20)
	s.Items = make(map[string]int)
	for i := range 10_000 {
		s.Items[strings.Repeat("<", 2000)+fmt.Sprint(i)] = i
	}
	var b bytes.Buffer
	if err := Markdown(&b, strings.Repeat("t", 1<<20), s, fs); err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`\n\n?(\d+) more findings left out`).FindStringSubmatch(b.String())
	if b.Len() > MaxMarkdown || b.Len() < MaxMarkdown*9/10 || m == nil {
		t.Fatalf("%d bytes, %v", b.Len(), m)
	}
	shown := strings.Count(b.String(), "\n| error |")
	if got := fmt.Sprint(len(fs) - shown); m[1] != got {
		t.Errorf("%d shown, %s left out, want %s", shown, m[1], got)
	}
	checkMarkdown(t, b.String())
}

var codeSpan = regexp.MustCompile("`[^`|<&]*`")

// checkMarkdown holds every line against what may stand in it, whatever the content was.
func checkMarkdown(t *testing.T, text string) {
	t.Helper()
	if len(text) > MaxMarkdown || !utf8.ValidString(text) {
		t.Fatalf("%d bytes", len(text))
	}
	section := 0
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		rest := codeSpan.ReplaceAllString(strings.NewReplacer("<br>", "", "<code>", "", "</code>", "").Replace(line), "")
		if strings.ContainsAny(rest, "<>`[]\\!~$\"'{}\r\v\f\u2028\u202e\x1b") {
			t.Errorf("syntax in %q", line)
		}
		switch {
		case strings.HasPrefix(line, "## "), strings.HasPrefix(line, "### "):
			if section++; strings.ContainsAny(strings.TrimLeft(line, "#"), "*_|") {
				t.Errorf("headline %q", line)
			}
		case strings.HasPrefix(line, "| "):
			if n := strings.Count(line, "|"); n != map[int]int{1: 3, 2: 7}[section] {
				t.Errorf("%d bars in section %d: %q", n, section, line)
			}
		case line == "", strings.HasSuffix(line, "left out: a summary is limited to 1 MiB."):
		default:
			t.Errorf("line %q", line)
		}
	}
	if section == 0 || section > 2 {
		t.Errorf("%d headlines", section)
	}
}

// fuzzed makes findings of any texts.
func fuzzed(data string) []Finding {
	texts := strings.Split(data, "\x00")
	next := func() string {
		if len(texts) == 0 {
			return ""
		}
		text := texts[0]
		texts = texts[1:]
		return text
	}
	var fs []Finding
	for len(texts) > 0 && len(fs) < 50 {
		f := Finding{Rule: next(), Level: Level(next()), Ref: next(), Message: next(), Suggestion: next()}
		for range min(len(f.Rule), 7) {
			f.Places = append(f.Places, closure.Place{
				Item: next(), Revision: next(), File: next(), Line: len(texts), Object: next(), Field: next(), Values: []string{next()}, By: next(),
			})
		}
		fs = append(fs, f)
	}
	return fs
}

func FuzzMarkdown(f *testing.F) {
	requireCorpus(f, "FuzzMarkdown")
	f.Fuzz(func(t *testing.T, title, data string) {
		var b bytes.Buffer
		if err := Markdown(&b, title, Summary{Name: title, Version: data, Items: map[string]int{data: 1}}, fuzzed(data)); err != nil {
			t.Fatal(err)
		}
		checkMarkdown(t, b.String())
	})
}

// FuzzSARIF checks by hand what the schema says of the fields that are written; the schema itself takes seconds.
func FuzzSARIF(f *testing.F) {
	requireCorpus(f, "FuzzSARIF")
	f.Fuzz(func(t *testing.T, data string) {
		var b bytes.Buffer
		if err := SARIF(&b, data, fuzzed(data)); err != nil {
			t.Fatal(err)
		}
		run := decode(t, b.Bytes())
		for _, r := range run.Results {
			if r.Message == nil || *r.Message.Text == "" || *r.RuleID == "" || r.RuleIndex < 0 || *run.Tool.Driver.Rules[r.RuleIndex].ID != *r.RuleID ||
				!slices.Contains(levels, Level(r.Level)) || len(r.Locations) != 1 || r.PartialFingerprints["plimsollFinding/v1"] == "" {
				t.Errorf("result %+v", r)
			}
			for i, l := range append(r.Locations, r.RelatedLocations...) {
				u, err := url.Parse(*l.PhysicalLocation.ArtifactLocation.URI)
				if err != nil || u.IsAbs() || u.Host != "" || u.Path == "" || u.Path[0] == '/' || strings.HasPrefix(u.Path, "../") || strings.Contains(u.Path, "/../") {
					t.Errorf("URI %v leaves its base: %v", u, err)
				}
				if region := l.PhysicalLocation.Region; region != nil && *region.StartLine < 1 || i > 0 && l.ID != i {
					t.Errorf("location %d: %+v", i, l)
				}
			}
		}
	})
}

func FuzzTable(f *testing.F) {
	requireCorpus(f, "FuzzTable")
	f.Fuzz(func(t *testing.T, data string) {
		var b bytes.Buffer
		if err := Table(&b, fuzzed(data)); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(b.String(), "\x1b\r\v\f\u202e") || !utf8.Valid(b.Bytes()) {
			t.Errorf("control characters in %q", b.String())
		}
	})
}

// requireCorpus fails when the committed seeds are not there: without them the target tests nothing in `make test`.
func requireCorpus(f *testing.F, name string) {
	f.Helper()
	entries, err := os.ReadDir(filepath.Join("testdata", "fuzz", name))
	if err != nil || len(entries) == 0 {
		f.Fatalf("no seed corpus: %v", err)
	}
}
