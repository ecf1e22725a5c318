package relay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/gitcmd"
)

// git checks the mirror: each ref leads to objects that are all there, and the folder of the generation says what the locks
// say. That folder is not synced and is compared at each start, so that it may be wrong after a power cut: a warning.
func (c *siteCheck) git(ctx context.Context) {
	gen := filepath.Join(c.relay.dir, "git", "gen-"+strconv.FormatUint(c.active.Generation, 10))
	if c.active.Generation == 0 {
		return
	}
	_, err := os.Stat(gen)
	made := !errors.Is(err, fs.ErrNotExist)
	if !made {
		c.warn(GitUntrue, gen, "", errors.New("is not there; the next start makes it"))
	}
	channels, _ := c.active.ranked()
	seen := make(map[string]bool)
	var tips strings.Builder
	for _, ch := range channels {
		b := c.bundles[ch.Release.Bundle.Digest]
		if b == nil {
			continue
		}
		for _, it := range b.Lock.Items {
			if it.Kind != bundle.KindGit || seen[it.Repository] {
				continue
			}
			seen[it.Repository] = true
			if err := checkMirrored(filepath.Join(gen, filepath.FromSlash(it.Repository)+".git"), *it.Git); made && err != nil {
				c.warn(GitUntrue, it.Repository, ch.Release.String(), err)
			}
			for _, ref := range it.Git.Refs {
				tips.WriteString(ref.OID + "\n")
				c.report.GitRefs++
			}
		}
	}
	if tips.Len() == 0 {
		return
	}
	if err := c.connected(ctx, tips.String()); err != nil {
		c.violate(GitBroken, "git/store.git", "", err)
	}
}

// checkMirrored compares a repository of a generation with the lock.
func checkMirrored(dir string, g bundle.Git) error {
	head, err := os.ReadFile(filepath.Join(dir, "HEAD"))
	if err != nil {
		return err
	}
	if string(head) != "ref: "+g.Head+"\n" {
		return fmt.Errorf("HEAD is %.100q, want %s", head, g.Head)
	}
	packed, err := os.ReadFile(filepath.Join(dir, "packed-refs"))
	if err != nil {
		return err
	}
	var want, got []string
	for _, ref := range g.Refs {
		want = append(want, ref.OID+" "+ref.Name)
		if ref.Peeled != "" {
			want = append(want, "^"+ref.Peeled)
		}
	}
	for line := range strings.Lines(string(packed)) {
		if !strings.HasPrefix(line, "#") {
			got = append(got, strings.TrimSuffix(line, "\n"))
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		return fmt.Errorf("packed-refs has %d lines that are not the lock's %d", len(got), len(want))
	}
	return nil
}

// connected asks git whether the tips lead to objects that are all there, and, where everything is read, whether every
// object of the store is sound.
func (c *siteCheck) connected(ctx context.Context, tips string) error {
	git, err := gitcmd.Find(c.relay.options.Git)
	if err != nil {
		return err
	}
	repo := c.relay.mirror.Objects()
	env := gitcmd.ClosedEnv(git, filepath.Join(c.relay.dir, "git", "home"))
	ignore := func(string) error { return nil }
	run := func(stdin string, args ...string) error {
		return gitcmd.Lines(ctx, gitcmd.Command(ctx, git, repo, env, args...), args[0], strings.NewReader(stdin), ignore)
	}
	if err := run(tips, "rev-list", "--objects", "--quiet", "--stdin"); err != nil || !c.options.Hash {
		return err
	}
	args := []string{"fsck", "--full", "--strict", "--no-dangling", "--no-progress"}
	cmd := gitcmd.Command(ctx, git, repo, env, append(formFlaws(), args...)...)
	return gitcmd.Lines(ctx, cmd, "fsck", nil, ignore)
}

// formFlaws lets pass what the mirror lets pass.
func formFlaws() []string {
	var args []string
	for _, flaw := range gitcmd.FormFlaws() {
		args = append(args, "-c", "fsck."+flaw+"=warn")
	}
	return args
}
