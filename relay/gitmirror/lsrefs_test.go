package gitmirror

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/relay/smarthttp"
)

// uploadPack is what the machine's git answers, run by hand on the folder of a generation.
func (s *sandbox) uploadPack(dir, protocol, stdin string, args ...string) (string, error) {
	cmd := s.Command(dir, append(append([]string{"upload-pack", "--strict", "--stateless-rpc"}, args...), dir)...)
	cmd.Env = append(cmd.Env, "GIT_PROTOCOL="+protocol)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.Output()
	return string(out), err
}

// manyStates admits one repository and serves it in many states: what is listed depends on refs and HEAD alone.
func manyStates(t testing.TB) (s *sandbox, site *site, states map[string]bundle.Git) {
	t.Helper()
	s = newSandbox(t)
	source := s.source()
	s.Git(source, "tag", "-a", "v1.5.4-of-tag", "-m", "a tag of a tag", "v1.5.4")
	s.Git(source, "tag", "-a", "of-a-tree", "-m", "a tree", "main^{tree}")
	s.Git(source, "tag", "blob", "main:charts/robot-app/Chart.yaml")
	s.Git(source, "branch", "Ümlaut/π")
	g := s.state(source)
	m := open(t, filepath.Join(t.TempDir(), "git"), Options{})
	admit(t, m, g, s.layer(source))
	with := func(head string, refs ...bundle.GitRef) bundle.Git {
		slices.SortFunc(refs, func(a, b bundle.GitRef) int { return strings.Compare(a.Name, b.Name) })
		return bundle.Git{Head: head, Refs: refs, Version: "test"}
	}
	find := func(name string) bundle.GitRef {
		i := slices.IndexFunc(g.Refs, func(r bundle.GitRef) bool { return r.Name == name })
		return g.Refs[i]
	}
	many := slices.Clone(g.Refs)
	for i := range 5000 {
		ref := find([]string{"refs/heads/main", "refs/tags/light", "refs/tags/v1.5.4"}[i%3])
		ref.Name = fmt.Sprintf("%s-%d/%04d", ref.Name, i%7, i)
		many = append(many, ref)
	}
	main := find("refs/heads/main")
	main2, main3, odd := main, main, main
	main2.Name, main3.Name, odd.Name = "refs/heads/main2", "refs/heads/m", "refs/heads/HEAD"
	states = map[string]bundle.Git{
		"all":          g,
		"many":         with("refs/heads/main", many...),
		"unborn":       with("refs/heads/none", g.Refs...),
		"head is tag":  with("refs/tags/v1.5.4-of-tag", g.Refs...),
		"one":          with("refs/heads/main", main),
		"one, unborn":  with("refs/heads/none", main),
		"only tags":    with("refs/heads/main", find("refs/tags/light"), find("refs/tags/v1.5.4")),
		"near names":   with("refs/heads/m", main, main2, main3, odd),
		"other branch": with("refs/heads/canary", find("refs/heads/canary"), main),
	}
	var repos []Repository
	for name, state := range states {
		repos = append(repos, Repository{Path: "example.com/" + strings.NewReplacer(" ", "-", ",", "").Replace(name), Git: state})
	}
	gen, err := m.Prepare(context.Background(), 1, repos)
	if err != nil {
		t.Fatal(err)
	}
	return s, serve(t, m, gen), states
}

// TestAdvertisementIsGits compares what is kept of git's listing with what git says, in every version, made and kept.
func TestAdvertisementIsGits(t *testing.T) {
	t.Parallel()
	s, site, _ := manyStates(t)
	gen := site.active.Load()
	for _, repo := range gen.Repositories() {
		dir := filepath.Join(site.m.generationDir(1), filepath.FromSlash(repo.Path)+".git")
		for _, protocol := range []string{"", "version=0", "version=1", "version=2", "version=1:version=2"} {
			want, err := s.uploadPack(dir, protocol, "", "--advertise-refs")
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(protocol, "2") {
				want = smarthttp.ServiceLine(smarthttp.UploadPack) + want
			}
			for range 2 {
				resp, got := site.do(t, "GET", "/git/"+repo.Path+"/info/refs?service=git-upload-pack", http.Header{"Git-Protocol": {protocol}}, nil)
				if got != want || resp.StatusCode != 200 || resp.ContentLength != int64(len(want)) {
					t.Errorf("%s %q: status %d, %.300q, want %.300q", repo.Path, protocol, resp.StatusCode, got, want)
				}
			}
		}
	}
}

// lsRefsRequests are requests as clients send them.
func lsRefsRequests() map[string]string {
	head := smarthttp.PktLine("command=ls-refs\n") + smarthttp.PktLine("agent=git/2.39.5") + smarthttp.PktLine("object-format=sha1")
	request := func(args ...string) string {
		text := head + "0001"
		for _, a := range args {
			text += smarthttp.PktLine(a + "\n")
		}
		return text + "0000"
	}
	all := map[string]string{
		"ls-remote":          request("peel", "symrefs"),
		"ls-remote main":     request("peel", "symrefs", "ref-prefix main", "ref-prefix refs/main", "ref-prefix refs/tags/main", "ref-prefix refs/heads/main"),
		"clone":              request("peel", "symrefs", "unborn", "ref-prefix refs/heads/", "ref-prefix refs/tags/", "ref-prefix HEAD"),
		"nothing":            request(),
		"only unborn":        request("unborn"),
		"unborn and symrefs": request("unborn", "symrefs"),
		"peel":               request("peel"),
		"overlapping":        request("ref-prefix refs/tags/v1", "ref-prefix refs/", "ref-prefix refs/heads/main", "ref-prefix refs/heads/main"),
		"out of order":       request("ref-prefix refs/tags/", "ref-prefix refs/heads/m", "ref-prefix refs/heads/c"),
		"empty prefix":       request("ref-prefix "),
		"of HEAD alone":      request("symrefs", "ref-prefix HEAD"),
		"part of HEAD":       request("symrefs", "ref-prefix HE"),
		"no such":            request("ref-prefix refs/heads/no-such-branch"),
		"whole name":         request("peel", "ref-prefix refs/tags/v1.5.4"),
		"UTF-8":              request("ref-prefix refs/heads/Ü"),
		"glob":               request("ref-prefix refs/heads/*", "ref-prefix refs/h?ads/"),
		"no capabilities":    smarthttp.PktLine("command=ls-refs") + "0001" + smarthttp.PktLine("peel") + "0000",
		"no arguments":       smarthttp.PktLine("command=ls-refs\n") + "0000",
		"no section":         head + "0000",
	}
	return all
}

// TestLsRefsIsGits: what is answered without git is, byte for byte, what git answers.
func TestLsRefsIsGits(t *testing.T) {
	t.Parallel()
	s, site, _ := manyStates(t)
	post := http.Header{"Content-Type": {smarthttp.UploadPack.RequestType()}, "Git-Protocol": {"version=2"}}
	for _, repo := range site.active.Load().Repositories() {
		dir := filepath.Join(site.m.generationDir(1), filepath.FromSlash(repo.Path)+".git")
		for name, request := range lsRefsRequests() {
			if _, ok := parseLsRefs([]byte(request)); !ok {
				t.Errorf("%s is left to git", name)
			}
			want, err := s.uploadPack(dir, "version=2", request)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			_, got := site.do(t, "POST", "/git/"+repo.Path+"/git-upload-pack", post, strings.NewReader(request))
			if got != want {
				t.Errorf("%s, %s: %.400q, want %.400q", repo.Path, name, got, want)
			}
		}
	}
}

// TestLsRefsLeavesToGit: whatever is not known is answered by git, the refusal of a broken request included.
func TestLsRefsLeavesToGit(t *testing.T) {
	t.Parallel()
	s, site, _ := manyStates(t)
	pkt := smarthttp.PktLine
	repo := site.active.Load().Repositories()[0]
	dir := filepath.Join(site.m.generationDir(1), filepath.FromSlash(repo.Path)+".git")
	command := pkt("command=ls-refs\n")
	for name, request := range map[string]string{
		"another command":     pkt("command=object-info\n") + "0001" + pkt("size\n") + "0000",
		"an argument":         command + "0001" + pkt("peeled\n") + "0000",
		"a capability":        command + pkt("server-option=x\n") + "0001" + "0000",
		"no agent":            command + pkt("agent\n") + "0001" + "0000",
		"another hash":        command + pkt("object-format=sha256\n") + "0001" + "0000",
		"command behind":      pkt("agent=x\n") + command + "0001" + "0000",
		"two commands":        command + command + "0001" + "0000",
		"more behind":         command + "0001" + "0000" + command + "0000",
		"no end":              command + "0001" + pkt("peel\n"),
		"nothing":             "",
		"a flush":             "0000",
		"a delimiter":         "0001" + command + "0000",
		"two delimiters":      command + "00010001" + "0000",
		"an end of answer":    command + "0002" + "0000",
		"a zero byte":         command + "0001" + pkt("ref-prefix refs/heads/\x00x\n") + "0000",
		"two line feeds":      command + "0001" + pkt("peel\n\n") + "0000",
		"an empty line":       command + "0001" + "0004" + "0000",
		"a length that lies":  command + "0001" + "ffff" + "0000",
		"a length too long":   command + "0001" + "0100peel" + "0000",
		"a length of 3":       command + "0001" + "0003" + "0000",
		"upper case":          command + "0001" + "000A" + "peel\n\n" + "0000",
		"a prefix of nothing": command + "0001" + pkt("ref-prefix\n") + "0000",
		"too many prefixes":   command + "0001" + strings.Repeat(pkt("ref-prefix refs/heads/m\n"), maxRefPrefixes+1) + "0000",
	} {
		if _, ok := parseLsRefs([]byte(request)); ok {
			t.Errorf("%s: answered without git", name)
		}
		want, wantErr := s.uploadPack(dir, "version=2", request)
		rec := site.post(t, repo.Path, request)
		if wantErr == nil && (rec.status != 200 || rec.body != want) {
			t.Errorf("%s: %d %.200q, want %.200q", name, rec.status, rec.body, want)
		}
		if wantErr != nil && rec.status == 200 && rec.body != want {
			t.Errorf("%s: %d %.200q, git says %v and %.200q", name, rec.status, rec.body, wantErr, want)
		}
	}
}

type reply struct {
	status int
	body   string
	err    error // of a broken answer
}

func (s *site) post(t testing.TB, path, body string) (r reply) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", s.server.URL+"/git/"+path+"/git-upload-pack", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Content-Type": {smarthttp.UploadPack.RequestType()}, "Git-Protocol": {"version=2"}}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return reply{status: resp.StatusCode, body: string(text), err: err}
}

// FuzzLsRefs: a request that is answered without git gets git's answer.
func FuzzLsRefs(f *testing.F) {
	s, site, states := manyStates(f)
	dir := filepath.Join(site.m.generationDir(1), "example.com", "near-names.git")
	if _, err := os.Stat(dir); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, request []byte) {
		q, ok := parseLsRefs(request)
		if !ok {
			return
		}
		want, err := s.uploadPack(dir, "version=2", string(request))
		if err != nil {
			t.Fatalf("git refuses what was accepted: %v", err)
		}
		var got bytes.Buffer
		if err := q.answer(&got, states["near names"]); err != nil || got.String() != want {
			t.Errorf("%q, want %q, %v", got.String(), want, err)
		}
	})
}
