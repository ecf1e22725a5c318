package gitpack

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// object writes an object as it is, without git's checks.
func (s *sandbox) object(dir, kind string, content []byte) string {
	s.T.Helper()
	cmd := exec.Command("git", "-c", "core.bigFileThreshold=1g", "hash-object", "-t", kind, "--literally", "-w", "--stdin")
	cmd.Dir, cmd.Env, cmd.Stdin = dir, s.Env(), bytes.NewReader(content)
	out, err := cmd.Output()
	if err != nil {
		s.T.Fatalf("hash-object: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// rawEntry is an entry of a tree object.
func rawEntry(mode, name, oid string) string {
	raw, err := hex.DecodeString(oid)
	if err != nil {
		panic(err)
	}
	return mode + " " + name + "\x00" + string(raw)
}

// plant makes a branch of a fresh repository lead to a tree.
func (s *sandbox) plant(dir, tree string) {
	s.T.Helper()
	s.Write(dir, "refs/heads/evil", s.object(dir, "commit", commitOf(tree).content)+"\n")
}

func (s *sandbox) bare() string {
	s.T.Helper()
	dir := filepath.Join(s.T.TempDir(), "evil.git")
	s.Git(s.Home, "init", "--quiet", "--bare", dir)
	s.Write(dir, "HEAD", "ref: refs/heads/evil\n")
	return dir
}

// packed is an object as it stands in a pack.
type packed struct {
	kind    byte   // 1 commit, 2 tree, 3 blob, 7 delta
	base    []byte // id of a delta's base
	content []byte
}

func (o packed) id() string {
	kind := map[byte]string{1: "commit", 2: "tree", 3: "blob"}[o.kind]
	sum := sha1.Sum(fmt.Appendf(nil, "%s %d\x00%s", kind, len(o.content), o.content))
	return hex.EncodeToString(sum[:])
}

func blobOf(content string) packed { return packed{kind: 3, content: []byte(content)} }
func treeOf(entries string) packed { return packed{kind: 2, content: []byte(entries)} }

func commitOf(tree string) packed {
	return packed{kind: 1, content: []byte("tree " + tree + "\nauthor A <a@example.com> 1700000000 +0000\n" +
		"committer A <a@example.com> 1700000000 +0000\n\nevil\n")}
}

// writePack writes a pack (gitformat-pack(5)) of any objects.
func writePack(t *testing.T, objects []packed) []byte {
	t.Helper()
	var b bytes.Buffer
	b.WriteString("PACK\x00\x00\x00\x02\x00\x00\x00" + string(rune(len(objects))))
	for _, o := range objects {
		size := len(o.content)
		first := o.kind<<4 | byte(size&0xf)
		if size >>= 4; size == 0 {
			b.WriteByte(first)
		} else {
			b.WriteByte(first | 0x80)
			b.Write(binary.AppendUvarint(nil, uint64(size)))
		}
		b.Write(o.base)
		w := zlib.NewWriter(&b)
		if _, err := w.Write(o.content); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	sum := sha1.Sum(b.Bytes())
	return append(b.Bytes(), sum[:]...)
}

func pkt(line string) string { return fmt.Sprintf("%04x%s", len(line)+4, line) }

// evilServer shows refs as it likes and sends a pack that git itself would not make; the last object is the commit of
// its branch evil. It gives the source's URL.
func evilServer(t *testing.T, refs []string, objects ...packed) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/x/info/refs":
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			tip := strings.Repeat("a", 40)
			if len(objects) > 0 {
				tip = objects[len(objects)-1].id()
			}
			fmt.Fprint(w, pkt("# service=git-upload-pack\n")+"0000"+
				pkt(tip+" HEAD\x00ofs-delta no-progress symref=HEAD:refs/heads/evil\n")+pkt(tip+" refs/heads/evil\n"))
			for _, name := range refs {
				fmt.Fprint(w, pkt(tip+" "+name+"\n"))
			}
			fmt.Fprint(w, "0000")
		case r.URL.Path == "/x/git-upload-pack" && len(objects) > 0:
			w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
			fmt.Fprint(w, pkt("NAK\n"))
			_, _ = w.Write(writePack(t, objects)) // the client may have hung up, as it should
		default:
			t.Errorf("the client went on to %s", r.URL.Path)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL + "/x"
}

// TestEvilServer: what the server of these tests sends is taken when nothing is wrong with it.
func TestEvilServer(t *testing.T) {
	blob := blobOf("x\n")
	tree := treeOf(rawEntry("100644", "a", blob.id()))
	p := newSandbox(t).mustPack(Options{Source: evilServer(t, nil, blob, tree, commitOf(tree.id()))})
	if len(p.Git.Refs) != 1 || p.Git.Head != "refs/heads/evil" {
		t.Errorf("got %v", p.Git)
	}
}

// TestPackRefusesEvilTrees: names that lead out of a checkout or into its .git on some file system, and trees that tools
// read differently, are refused with the object and the rule.
func TestPackRefusesEvilTrees(t *testing.T) {
	const file, link, null = "100644", "120000", "0000000000000000000000000000000000000000"
	for _, tc := range []struct {
		test, rule string
		entries    func(blob, tree string) string
	}{
		{"dot git", "hasDotgit", func(b, _ string) string { return rawEntry(file, ".git", b) }},
		{"dot git as a folder", "hasDotgit", func(_, t string) string { return rawEntry(modeTree, ".git", t) }},
		{"capitals", "hasDotgit", func(b, _ string) string { return rawEntry(file, ".GiT", b) }},
		{"NTFS short name", "hasDotgit", func(b, _ string) string { return rawEntry(file, "GIT~1", b) }},
		{"NTFS trailing dots and spaces", "hasDotgit", func(b, _ string) string { return rawEntry(file, ".git . .", b) }},
		{"NTFS stream", "hasDotgit", func(b, _ string) string { return rawEntry(file, ".git::$INDEX_ALLOCATION", b) }},
		{"NTFS backslash", "hasDotgit", func(b, _ string) string { return rawEntry(file, "a\\.git\\hooks\\post-checkout", b) }},
		{"HFS ignorable", "hasDotgit", func(b, _ string) string { return rawEntry(file, ".g\u200cit", b) }},
		{"dot dot", "hasDotdot", func(_, t string) string { return rawEntry(modeTree, "..", t) }},
		{"dot", "hasDot", func(_, t string) string { return rawEntry(modeTree, ".", t) }},
		{"a path as a name", "fullPathname", func(b, _ string) string { return rawEntry(file, "../../etc/cron.d/x", b) }},
		{"no name", "badTree", func(b, _ string) string { return rawEntry(file, "", b) }},
		{"null id", "nullSha1", func(_, _ string) string { return rawEntry(file, "a", null) }},
		{"the same name twice", "duplicateEntries", func(b, _ string) string { return rawEntry(file, "a", b) + rawEntry(file, "a", b) }},
		{"a file and a folder of one name", "duplicateEntries", func(b, t string) string {
			return rawEntry(file, "a", b) + rawEntry(file, "a.b", b) + rawEntry(modeTree, "a", t)
		}},
		{"not sorted", "treeNotSorted", func(b, _ string) string { return rawEntry(file, "b", b) + rawEntry(file, "a", b) }},
		{"gitmodules is a link", "gitmodulesSymlink", func(b, _ string) string { return rawEntry(link, ".gitmodules", b) }},
		{"a cut tree", "badTree", func(b, _ string) string { return rawEntry(file, "a", b)[:20] }},
	} {
		t.Run(tc.test, func(t *testing.T) {
			s := newSandbox(t)
			blob := blobOf("x\n")
			inner := treeOf(rawEntry(file, "a", blob.id()))
			tree := treeOf(tc.entries(blob.id(), inner.id()))
			_, err := s.pack(Options{Source: evilServer(t, nil, blob, inner, tree, commitOf(tree.id()))})
			var oe *ObjectError
			if !errors.As(err, &oe) || oe.Object != tree.id() || oe.Rule != tc.rule {
				t.Fatalf("got %v, want tree %s refused by %s", err, tree.id(), tc.rule)
			}
			if text := err.Error(); !strings.Contains(text, oe.Object) || !strings.Contains(text, tc.rule) {
				t.Errorf("the message is %s", text)
			}
		})
	}
}

// TestPackRefusesEvilGitmodules: a submodule's URL, name or path that git of old took for an option or for a place of its
// own.
func TestPackRefusesEvilGitmodules(t *testing.T) {
	for rule, text := range map[string]string{
		"gitmodulesUrl":  "[submodule \"a\"]\n\tpath = a\n\turl = --upload-pack=touch x\n",
		"gitmodulesName": "[submodule \"../../x\"]\n\tpath = a\n\turl = https://example.com/x\n",
		"gitmodulesPath": "[submodule \"a\"]\n\tpath = -x\n\turl = https://example.com/x\n",
	} {
		blob := blobOf(text)
		tree := treeOf(rawEntry("100644", ".gitmodules", blob.id()))
		_, err := newSandbox(t).pack(Options{Source: evilServer(t, nil, blob, tree, commitOf(tree.id()))})
		var oe *ObjectError
		if !errors.As(err, &oe) || oe.Object != blob.id() || oe.Rule != rule {
			t.Errorf("%s: got %v", rule, err)
		}
	}
}

// TestPackRefusesEvilRefNames: git itself keeps such refs out of repositories.
func TestPackRefusesEvilRefNames(t *testing.T) {
	for _, name := range []string{
		"refs/heads/a\x07b", "refs/heads/a\x1b[2Jb", "refs/heads/a\x7fb", "refs/heads/../../hooks/x", "refs/heads/a..b", "refs/heads/a.lock",
		"refs/heads/.a", "refs/heads/a//b", "refs/heads/a:b", "refs/heads/" + strings.Repeat("a", 300), "refs/tags/v1^{}\x01",
	} {
		_, err := newSandbox(t).pack(Options{Source: evilServer(t, []string{name})})
		var se *SourceError
		if !errors.As(err, &se) || !strings.Contains(err.Error(), "is not allowed") {
			t.Errorf("%q: %v", name, err)
		} else if strings.ContainsAny(err.Error(), "\x07\x1b\x7f\x01") {
			t.Errorf("the error repeats control characters: %q", err)
		}
	}
}

// TestPackRefusesTreeBomb: ten small trees that stand for ten billion files.
func TestPackRefusesTreeBomb(t *testing.T) {
	s := newSandbox(t)
	dir := s.bare()
	mode, object := "100644", s.object(dir, "blob", []byte("boom\n"))
	for range 10 {
		var entries strings.Builder
		for i := range 10 {
			entries.WriteString(rawEntry(mode, fmt.Sprintf("d%d", i), object))
		}
		mode, object = modeTree, s.object(dir, "tree", []byte(entries.String()))
	}
	s.plant(dir, object)
	wantTreeError(t, s, dir, "more than 4194304 files")
}

// TestPackRefusesDeepTree: paths that no machine can open.
func TestPackRefusesDeepTree(t *testing.T) {
	s := newSandbox(t)
	name := strings.Repeat("d", 200)
	chain := func(dir, mode, object string, n int) string {
		for range n {
			mode, object = modeTree, s.object(dir, "tree", []byte(rawEntry(mode, name, object)))
		}
		return object
	}
	t.Run("a chain", func(t *testing.T) {
		dir := s.bare()
		s.plant(dir, chain(dir, "100644", s.object(dir, "blob", nil), 21))
		wantTreeError(t, s, dir, "longer than 4096 bytes")
	})
	t.Run("a shared part that only the second place makes too long", func(t *testing.T) {
		dir := s.bare()
		shared := chain(dir, "100644", s.object(dir, "blob", nil), 16)
		top := s.object(dir, "tree", []byte(rawEntry(modeTree, "a", shared)+rawEntry(modeTree, "b", chain(dir, modeTree, shared, 5))))
		s.plant(dir, top)
		wantTreeError(t, s, dir, "longer than 4096 bytes")
	})
	t.Run("just not too long", func(t *testing.T) {
		dir := s.bare()
		s.plant(dir, chain(dir, "100644", s.object(dir, "blob", nil), 20))
		s.mustPack(Options{Source: dir})
	})
}

// TestPackRefusesHugeTree: one folder with more names than a tree object may have.
func TestPackRefusesHugeTree(t *testing.T) {
	s := newSandbox(t)
	dir := s.bare()
	blob := s.object(dir, "blob", []byte("x\n"))
	var entries strings.Builder
	for i := 0; entries.Len() <= MaxTree; i++ {
		entries.WriteString(rawEntry("100644", fmt.Sprintf("%0200d", i), blob))
	}
	s.plant(dir, s.object(dir, "tree", []byte(entries.String())))
	wantTreeError(t, s, dir, "the limit is 8388608")
}

func wantTreeError(t *testing.T, s *sandbox, dir, reason string) {
	t.Helper()
	_, err := s.pack(Options{Source: dir})
	var te *TreeError
	if !errors.As(err, &te) || !strings.Contains(te.Reason, reason) || te.Ref != "refs/heads/evil" {
		t.Fatalf("got %v", err)
	}
	if kind := s.Git(dir, "cat-file", "-t", te.Object); kind != "tree" {
		t.Errorf("object %s is a %s", te.Object, kind)
	}
}

// TestPackRefusesDeltaBomb: a pack of a few KiB with a delta that blows up. The limit is lowered, so that the bomb that
// is made for the test is a small one.
func TestPackRefusesDeltaBomb(t *testing.T) {
	s := newSandbox(t)
	base := blobOf(strings.Repeat("\x00", 1<<20))
	baseID, err := hex.DecodeString(base.id())
	if err != nil {
		t.Fatal(err)
	}
	const copies, size = 100, 100 << 20
	delta := binary.AppendUvarint(binary.AppendUvarint(nil, uint64(len(base.content))), size)
	for range copies {
		delta = append(delta, 0x80|0x40, 0x10) // copy from 0, size 0x100000: only its third byte is not zero
	}
	bomb := blobOf(strings.Repeat("\x00", size)).id()
	tree := treeOf(rawEntry("100644", "bomb", bomb))
	source := evilServer(t, nil, base, packed{kind: 7, base: baseID, content: delta}, tree, commitOf(tree.id()))
	_, err = s.pack(Options{Source: source, maxAllocation: 64 << 20})
	var me *MemoryError
	if !errors.As(err, &me) || !strings.Contains(err.Error(), fmt.Sprint(size+1)) {
		t.Errorf("got %v", err)
	}
	s.mustPack(Options{Source: source}) // which is allowed this much
}

// TestPackWhenTheDiskIsFull runs itself in a name space of its own, where it may mount a small disk.
func TestPackWhenTheDiskIsFull(t *testing.T) {
	const marker = "GITPACK_TEST_SMALL_DISK"
	if disk := os.Getenv(marker); disk != "" {
		packOnto(t, disk)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestPackWhenTheDiskIsFull$", "-test.v")
	cmd.Env = append(os.Environ(), marker+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSPC) {
		t.Skipf("this machine allows no user name spaces: %v", err)
	}
	if err != nil || !bytes.Contains(out, []byte("--- PASS")) {
		t.Errorf("%v: %s", err, out)
	}
}

func packOnto(t *testing.T, disk string) {
	if err := syscall.Mount("none", disk, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("mount: %v", err)
	}
	s := newSandbox(t)
	noise := make([]byte, 1200<<10) // it does not compress
	state := uint64(1)
	for i := range noise {
		state = state*6364136223846793005 + 1442695040888963407
		noise[i] = byte(state >> 56)
	}
	for name, size := range map[string]int{"while fetching": 1200 << 10, "while packing": 500 << 10} {
		source := s.repository()
		s.Commit(source, "a", string(noise[:size]))
		_, err := s.pack(Options{Source: source, Dir: disk})
		var full *NoSpaceError
		if !errors.As(err, &full) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), disk) ||
			!strings.Contains(strings.ToLower(err.Error()), "no space left on device") {
			t.Errorf("%s: %v", name, err)
		}
		if packing := strings.Contains(err.Error(), "layer.bundle"); packing != (name == "while packing") {
			t.Errorf("%s: the wrong moment: %v", name, err)
		}
	}
	s.mustPack(Options{Source: s.repository(), Dir: disk}) // which fits
}
