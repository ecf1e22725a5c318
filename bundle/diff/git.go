package diff

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/gitcmd"
)

// Limits of what is read of Git layers.
const (
	maxGitLayers = 4 << 30 // bytes of all layers of a repository, both sides
	maxGitText   = 200     // columns of a subject or a name
)

// lookGit lists the commits and files between the refs, when asked for. A repository whose objects are not all there (a
// layer that builds on a bundle which neither side is) still has its refs listed.
func (c *comparer) lookGit(ctx context.Context, change *Change, p pair) (err error) {
	if !c.o.Commits || len(change.Refs) == 0 {
		return nil
	}
	s, err := c.newScratch()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.root)) }()
	if err = s.fill(ctx, c, p); err == nil {
		err = s.list(ctx, change, p)
	}
	var odd *contentError
	var git *gitcmd.Error
	if errors.As(err, &odd) || errors.As(err, &git) || errors.Is(err, bufio.ErrTooLong) {
		change.Notes = append(change.Notes, fmt.Sprintf("commits cannot be listed: %v", err))
		return nil
	}
	return err
}

// scratch is a bare repository with the objects of both sides.
type scratch struct {
	git, root, repo string
	env             []string
}

func (c *comparer) newScratch() (*scratch, error) {
	git, err := gitcmd.Find(c.o.Git)
	if err != nil {
		return nil, err
	}
	root, err := os.MkdirTemp(c.o.TempDir, "plimsoll-diff-*")
	if err != nil {
		return nil, err
	}
	if root, err = filepath.Abs(root); err != nil {
		return nil, err
	}
	s := &scratch{git: git, root: root, repo: filepath.Join(root, "scratch.git"), env: gitcmd.ClosedEnv(git, root)}
	for _, folder := range []string{"objects", "refs"} {
		if err := os.MkdirAll(filepath.Join(s.repo, folder), 0o700); err != nil {
			return nil, errors.Join(err, os.RemoveAll(root))
		}
	}
	for name, content := range map[string]string{
		"HEAD": "ref: refs/heads/none\n", "config": "[core]\n\trepositoryformatversion = 0\n\tbare = true\n\tcommitGraph = false\n",
	} {
		if err := os.WriteFile(filepath.Join(s.repo, name), []byte(content), 0o600); err != nil {
			return nil, errors.Join(err, os.RemoveAll(root))
		}
	}
	return s, nil
}

// lines runs git with arguments of which none comes from a bundle but object ids that the lock's parser has checked.
func (s *scratch) lines(ctx context.Context, stdin io.Reader, fn func(line string) error, args ...string) error {
	return gitcmd.Lines(ctx, gitcmd.Command(ctx, s.git, s.repo, s.env, args...), args[0], stdin, fn)
}

// fill indexes the layers of A and then those of B that A has not: a later layer may need objects of an earlier one.
func (s *scratch) fill(ctx context.Context, c *comparer, p pair) error {
	type layer struct {
		inv  *inventory
		desc ocispec.Descriptor
	}
	var layers []layer
	seen := make(map[string]bool)
	var total int64
	for _, side := range []struct {
		inv *inventory
		it  bundle.Item
	}{{c.a, p.old}, {c.b, p.now}} {
		m, err := side.inv.manifest(ctx, plain(side.it.Descriptor))
		if err != nil {
			return err
		}
		for _, l := range m.Layers {
			if l.MediaType == bundle.MediaTypeGitLayer && !seen[l.Digest.String()] {
				seen[l.Digest.String()] = true
				layers = append(layers, layer{side.inv, l})
				if total += l.Size; l.Size > maxGitLayers || total > maxGitLayers {
					return unusable("its layers have more than %d bytes", maxGitLayers)
				}
			}
		}
	}
	// A layer of A may build on what is in B whole: those that cannot be indexed get a second try behind all others.
	for try := range 2 {
		var again []layer
		for _, l := range layers {
			err := s.index(ctx, l.inv, l.desc)
			var git *gitcmd.Error
			if try == 0 && errors.As(err, &git) {
				again = append(again, l)
			} else if err != nil {
				return err
			}
		}
		layers = again
	}
	return nil
}

// index brings the objects of a layer into the scratch repository.
func (s *scratch) index(ctx context.Context, inv *inventory, desc ocispec.Descriptor) error {
	r, err := inv.open(ctx, desc)
	if err != nil {
		return err
	}
	br := bundle.NewGitHeaderReader(r)
	if err = checkPack(br, desc.Size); err == nil {
		err = s.lines(ctx, br, func(string) error { return nil },
			"index-pack", "--stdin", "--fix-thin", "--threads=1", fmt.Sprintf("--max-input-size=%d", desc.Size+1))
	}
	// Damage explains every other error, and is known at the end.
	if _, e := io.Copy(io.Discard, br); e != nil {
		err = e
	}
	return errors.Join(err, r.Close())
}

// checkPack reads the header of a Git bundle and looks at the head of its pack. index-pack believes the number of objects
// and makes room for them; each takes at least nine bytes.
func checkPack(br *bufio.Reader, size int64) error {
	_, err := bundle.ReadGitHeader(br)
	var bad *bundle.GitHeaderError
	if errors.As(err, &bad) {
		return unusable("git layer: %w", err)
	}
	if err != nil {
		return err
	}
	head, err := br.Peek(12)
	if err != nil {
		return unusable("git layer: no pack: %w", err)
	}
	count := int64(head[8])<<24 | int64(head[9])<<16 | int64(head[10])<<8 | int64(head[11])
	if !bytes.HasPrefix(head, []byte("PACK")) || count*9 > size {
		return unusable("git layer: %d objects do not fit into a pack of %d bytes", count, size)
	}
	return nil
}

// list asks git for the commits and the files between the refs.
func (s *scratch) list(ctx context.Context, change *Change, p pair) error {
	var known strings.Builder // what A has
	for _, ref := range p.old.Git.Refs {
		known.WriteString("^" + ref.OID + "\n")
	}
	compared := make(map[[2]string]bool)
	listed := 0
	for i := range change.Refs {
		r := &change.Refs[i]
		if r.Status == Removed || r.Old == r.New {
			continue
		}
		if listed++; listed > MaxNames {
			change.Omitted++
			continue
		}
		without := known.String()
		if r.Status == Changed {
			without = "^" + r.Old + "\n"
			if err := s.lines(ctx, strings.NewReader(r.Old+"\n^"+r.New+"\n"), func(string) error { r.Lost++; return nil },
				"rev-list", "--stdin", fmt.Sprintf("--max-count=%d", MaxCommits)); err != nil {
				return err
			}
		}
		if err := s.commits(ctx, r, without); err != nil {
			return err
		}
		if r.Status == Changed && !compared[[2]string{r.Old, r.New}] {
			compared[[2]string{r.Old, r.New}] = true
			if err := s.files(ctx, change, r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *scratch) commits(ctx context.Context, r *RefChange, without string) error {
	const sep = "\x1f" // a unit separator that a name holds ends up in the subject
	format := fmt.Sprintf("--format=%%H%s%%ct%s%%<(%d,trunc)%%an%s%%<(%[3]d,trunc)%%s", sep, sep, maxGitText, sep)
	return s.lines(ctx, strings.NewReader(r.New+"\n"+without), func(line string) error {
		parts := strings.SplitN(strings.ToValidUTF8(line, "\uFFFD"), sep, 4)
		if len(parts) != 4 {
			return unusable("git rev-list: line %.100q", line)
		}
		if len(r.Commits) == MaxCommits {
			r.More = true
			return nil
		}
		seconds, err := strconv.ParseInt(parts[1], 10, 64)
		if err != nil {
			return unusable("git rev-list: time %.100q", parts[1])
		}
		r.Commits = append(r.Commits, Commit{
			ID: parts[0], Time: time.Unix(seconds, 0).UTC().Format(time.RFC3339),
			// Columns bound no bytes: marks over a letter take none.
			Author: cut(strings.TrimRight(parts[2], " ")), Subject: cut(strings.TrimRight(parts[3], " ")),
		})
		return nil
	}, "rev-list", "--stdin", "--no-commit-header", format, fmt.Sprintf("--max-count=%d", MaxCommits+1))
}

// rawChange is a line of `git diff-tree --raw` (git-diff-tree(1)): modes, object ids, status, path.
var rawChange = regexp.MustCompile(`^:([0-7]{6}) ([0-7]{6}) ([0-9a-f]{40}) ([0-9a-f]{40}) ([A-Z])\t(.*)$`)

// files lists what changed from the old to the new commit of a ref.
func (s *scratch) files(ctx context.Context, change *Change, r *RefChange) error {
	type blob struct{ old, new string }
	var found []FileChange
	var blobs []blob
	err := s.lines(ctx, nil, func(line string) error {
		m := rawChange.FindStringSubmatch(line)
		if m == nil {
			return unusable("git diff-tree: line %.100q", line)
		}
		if len(change.Files)+len(found) >= MaxFiles {
			change.Omitted++
			return nil
		}
		f := FileChange{Path: unquote(m[6]), Status: Changed}
		switch m[5] {
		case "A":
			f.Status = Added
		case "D":
			f.Status = Removed
		}
		f.Path = strings.TrimPrefix(strings.TrimPrefix(r.Name, "refs/heads/"), "refs/tags/") + ":" + f.Path
		found = append(found, f)
		blobs = append(blobs, blob{m[3], m[4]})
		return nil
	}, "diff-tree", "-r", "--raw", "--no-abbrev", "--no-renames", r.Old, r.New)
	if err != nil {
		return err
	}
	for i, f := range found {
		if len(change.Files)+i < MaxPatches {
			old, size, err := s.text(ctx, blobs[i].old)
			if err != nil {
				return err
			}
			now, newSize, err := s.text(ctx, blobs[i].new)
			if err != nil {
				return err
			}
			if found[i].OldBytes, found[i].NewBytes = size, newSize; old != nil && now != nil {
				found[i].Patch = patch(f, old, now)
			}
		}
	}
	change.Files = append(change.Files, found...)
	return nil
}

// text reads a blob; nil when it is no text, too long, or not a blob (a submodule's commit).
func (s *scratch) text(ctx context.Context, oid string) (data []byte, size int64, err error) {
	if strings.Trim(oid, "0") == "" {
		return []byte{}, 0, nil
	}
	kind := ""
	err = s.lines(ctx, strings.NewReader(oid+"\n"), func(line string) error {
		if kind, line, _ = strings.Cut(line, " "); kind == "blob" {
			size, err = strconv.ParseInt(line, 10, 64)
		}
		return err
	}, "cat-file", "--batch-check=%(objecttype) %(objectsize)")
	if err != nil || kind != "blob" || size > MaxText {
		return nil, size, err
	}
	var out bytes.Buffer
	cmd := gitcmd.Command(ctx, s.git, s.repo, s.env, "cat-file", "blob", oid)
	var stderr gitcmd.Tail
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Start(); err != nil {
		return nil, 0, &gitcmd.Error{Command: "cat-file", Err: err}
	}
	if err := gitcmd.Wait(ctx, cmd, "cat-file", &stderr, nil); err != nil || !isText(out.Bytes()) {
		return nil, size, err
	}
	return append([]byte{}, out.Bytes()...), size, nil
}

// unquote undoes the quotes that git puts around a path with characters that are not plain.
func unquote(path string) string {
	if plain, err := strconv.Unquote(path); err == nil && strings.HasPrefix(path, `"`) {
		path = plain
	}
	return strings.ToValidUTF8(path, "\uFFFD")
}
