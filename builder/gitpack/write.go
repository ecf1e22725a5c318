package gitpack

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/gitcmd"
	"github.com/plimsoll/plimsoll/internal/progress"
)

// bigFile is the size beyond which blobs are streamed, in fetching, packing and at the relay.
const bigFile = "32m"

// packConfig and packArgs pin everything that pack-objects would otherwise take from the source's packs, the number of
// processors, the memory or somebody's configuration.
func packConfig() []string {
	return []string{
		"-c", "core.bigFileThreshold=" + bigFile,
		"-c", "core.commitGraph=false",
		"-c", "pack.windowMemory=0",
		"-c", "pack.deltaCacheSize=64m",
		"-c", "pack.useBitmaps=false",
		"-c", "pack.useSparse=false",
	}
}

func packArgs() []string {
	return []string{
		"pack-objects", "--stdout", "--revs", "--quiet",
		"--threads=1", "--no-reuse-delta", "--no-reuse-object", "--delta-base-offset",
		"--window=10", "--depth=50", "--compression=6",
	}
}

// writeBundle writes a Git bundle of format v2 (gitformat-bundle(5)): the prerequisites, then HEAD if its branch is there,
// so that `git clone` of the file works, then all refs in order, then the pack, which may be empty.
func (p *packer) writeBundle(ctx context.Context, path string, g bundle.Git, from start) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("git %s: %w", p.o.Source, err)
	}
	out := &counter{w: f, report: func(n int64) { p.report(progress.Event{Done: n}) }}
	buf := bufio.NewWriter(out)
	writeHeader(buf, g, from.commits)
	if err = buf.Flush(); err == nil {
		err = p.packInto(ctx, out, g, from.oids)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return p.inSource(ctx, err)
	}
	p.report(progress.Event{Done: out.n, Total: out.n, End: true})
	return nil
}

// writeHeader leaves errors to the buffer's Flush.
func writeHeader(w *bufio.Writer, g bundle.Git, prerequisites []string) {
	fmt.Fprint(w, "# v2 git bundle\n")
	for _, oid := range prerequisites {
		fmt.Fprintf(w, "-%s \n", oid)
	}
	for _, ref := range headerRefs(g) {
		fmt.Fprintf(w, "%s %s\n", ref.OID, ref.Name)
	}
	fmt.Fprint(w, "\n")
}

// headerRefs is what a layer's header says of a repository.
func headerRefs(g bundle.Git) []bundle.GitRef {
	refs := make([]bundle.GitRef, 0, len(g.Refs)+1)
	for _, ref := range g.Refs {
		if ref.Name == g.Head {
			refs = append(refs, bundle.GitRef{Name: "HEAD", OID: ref.OID})
		}
	}
	return append(refs, g.Refs...)
}

func (p *packer) packInto(ctx context.Context, out *counter, g bundle.Git, without []string) error {
	var revs strings.Builder
	revs.WriteString(objectLines(g.Refs))
	for _, oid := range without {
		revs.WriteString("^" + oid + "\n")
	}
	cmd := p.git.command(ctx, p.repo, p.git.closed, append(packConfig(), packArgs()...)...)
	var stderr gitcmd.Tail
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(revs.String()), out, &stderr
	if err := cmd.Start(); err != nil {
		return &GitError{Command: "pack-objects", Err: err}
	}
	err := gitcmd.Wait(ctx, cmd, "pack-objects", &stderr, nil)
	if ctx.Err() == nil && out.err != nil { // git only knows that nobody reads any more
		return out.err
	}
	return err
}

// counter reports bytes as they are written, once per MiB, and keeps the first error.
type counter struct {
	w      io.Writer
	err    error
	n      int64
	told   int64
	report func(n int64)
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	c.err = cmp.Or(c.err, err)
	if c.n-c.told >= 1<<20 {
		c.told = c.n
		c.report(c.n)
	}
	return n, err
}
