package relay

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/internal/gitcmd"
	"github.com/plimsoll/plimsoll/relay/siterepo"
	"github.com/plimsoll/plimsoll/relay/siterepo/shadow"
)

const (
	helmContent  = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	maxBranches  = 16      // of a repository, that are compared
	maxChartRead = 8 << 20 // bytes of a chart that are read in search of its values.yaml
)

// SiteShadows are the keys of one of the site's own repositories behind which changes of a release disappear.
type SiteShadows struct {
	Repository string           `json:"repository"` // of the site
	Shadows    []shadow.Shadow  `json:"shadows"`
	Problems   []shadow.Problem `json:"problems"`
	Cut        bool             `json:"cut"` // there are more
}

// Shadows compares the active release of a channel with the one before it, and reports what the site's own
// repositories set of what changed. A site without repositories has none.
func (r *Relay) Shadows(ctx context.Context, name string) ([]SiteShadows, error) {
	active, _, err := readActive(ctx, r.docs)
	if err != nil {
		return nil, err
	}
	i, found := active.find(name)
	if !found {
		return nil, fmt.Errorf("channel %s: no release is active", name)
	}
	if len(active.Channels[i].Previous) == 0 {
		return nil, nil
	}
	return r.shadows(ctx, active.Channels[i].Previous[0], active.Channels[i].Release)
}

func (r *Relay) shadows(ctx context.Context, before, after Release) ([]SiteShadows, error) {
	set, err := r.siteRepositories()
	if err != nil || set == nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends git for every tree that is still open
	var bases []shadow.Base
	var all []SiteShadows
	for _, name := range set.Names() {
		tree, err := set.Tree(ctx, name, "")
		if errors.Is(err, fs.ErrNotExist) {
			continue // nobody has pushed yet
		}
		if err != nil {
			return nil, fmt.Errorf("site repository %s: %w", name, err)
		}
		defer tree.Close() //nolint:errcheck // only read from
		if bases == nil {
			closeBases, err := r.bases(ctx, &bases, before, after)
			defer closeBases()
			if err != nil {
				return nil, err
			}
		}
		report, err := shadow.Find(ctx, tree, bases)
		if err != nil {
			return nil, fmt.Errorf("site repository %s: %w", name, err)
		}
		all = append(all, SiteShadows{Repository: name, Shadows: report.Shadows, Problems: report.Problems, Cut: report.Cut})
	}
	return all, nil
}

// siteRepositories opens those that there are, whatever a serving process was told to have; nil if there are none.
func (r *Relay) siteRepositories() (*siterepo.Set, error) {
	entries, err := os.ReadDir(filepath.Join(SiteDir(r.dir), "repos"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if siterepo.CheckName(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	return siterepo.Open(SiteDir(r.dir), siterepo.Options{Git: r.options.Git, Names: names})
}

// SitePushes lists what was pushed to one of the site's own repositories, or to all of them, the oldest first.
func (r *Relay) SitePushes(ctx context.Context, name string) ([]siterepo.Push, error) {
	all := []siterepo.Push{}
	set, err := r.siteRepositories()
	if err != nil {
		return nil, err
	}
	if set == nil {
		if name != "" {
			return nil, &siterepo.NoRepositoryError{Name: name}
		}
		return all, nil
	}
	names := set.Names()
	if name != "" {
		names = []string{name}
	}
	for _, name := range names {
		pushes, err := set.Log(ctx, name)
		if err != nil {
			return nil, err
		}
		all = append(all, pushes...)
	}
	slices.SortStableFunc(all, func(a, b siterepo.Push) int { return a.Time.Compare(b.Time) })
	return all, nil
}

// bases are what lies below the site's files: each branch of each repository, and the values of each chart, in two
// releases.
func (r *Relay) bases(ctx context.Context, bases *[]shadow.Base, before, after Release) (closeAll func(), err error) {
	b := &baseReader{relay: r, bases: bases}
	closeAll = b.close
	if b.git.Path, err = gitcmd.Find(r.options.Git); err != nil {
		return closeAll, err
	}
	if b.git.Home, err = os.MkdirTemp("", "plimsoll-home-"); err != nil {
		return closeAll, err
	}
	old, err := bundle.Load(ctx, r.store, before.Bundle)
	if err != nil {
		return closeAll, err
	}
	now, err := bundle.Load(ctx, r.store, after.Bundle)
	if err != nil {
		return closeAll, err
	}
	was := make(map[string]bundle.Item)
	for _, it := range old.Lock.Items {
		was[string(it.Kind)+" "+it.Repository] = it
	}
	for _, it := range now.Lock.Items {
		key := string(it.Kind) + " " + it.Repository
		earlier, ok := was[key]
		if !ok || earlier.Descriptor.Digest == it.Descriptor.Digest {
			continue // new, or nothing changed in it
		}
		switch it.Kind {
		case bundle.KindGit:
			err = b.branches(ctx, it.Repository, *earlier.Git, *it.Git)
		case bundle.KindChart:
			err = b.chart(ctx, it.Repository, earlier.Descriptor, it.Descriptor)
		}
		if err != nil {
			return closeAll, fmt.Errorf("item %s: %w", it.Name, err)
		}
	}
	return closeAll, nil
}

type baseReader struct {
	relay *Relay
	git   shadow.Git
	bases *[]shadow.Base
	open  []*shadow.Commit
}

func (b *baseReader) close() {
	for _, c := range b.open {
		c.Close() //nolint:errcheck // only read from
	}
	if b.git.Home != "" {
		os.RemoveAll(b.git.Home) //nolint:errcheck // empty, in the temporary folder
	}
}

func (b *baseReader) branches(ctx context.Context, repository string, before, after bundle.Git) error {
	was := make(map[string]string)
	for _, ref := range before.Refs {
		was[ref.Name] = ref.OID
	}
	n := 0
	for _, ref := range after.Refs {
		old, ok := was[ref.Name]
		if !strings.HasPrefix(ref.Name, "refs/heads/") || !ok || old == ref.OID {
			continue
		}
		if n++; n > maxBranches {
			return nil
		}
		base := shadow.Base{Name: repository + " " + ref.Name, Repository: repository}
		for _, side := range []struct {
			oid  string
			tree *shadow.Tree
		}{{old, &base.Before}, {ref.OID, &base.After}} {
			c, err := shadow.OpenCommit(ctx, b.git, b.relay.mirror.Objects(), side.oid)
			if err != nil {
				return err
			}
			b.open = append(b.open, c)
			*side.tree = c
		}
		*b.bases = append(*b.bases, base)
	}
	return nil
}

func (b *baseReader) chart(ctx context.Context, repository string, before, after ocispec.Descriptor) error {
	name := repository[strings.LastIndexByte(repository, '/')+1:]
	base := shadow.Base{Name: "chart " + name, Chart: name}
	for _, side := range []struct {
		desc ocispec.Descriptor
		tree *shadow.Tree
	}{{before, &base.Before}, {after, &base.After}} {
		values, err := b.relay.chartValues(ctx, side.desc)
		if err != nil {
			return err
		}
		*side.tree = shadow.Files{"values.yaml": values}
	}
	*b.bases = append(*b.bases, base)
	return nil
}

// chartValues reads the values.yaml of a chart, which Helm packs below a folder with the chart's name; nil if there is
// none.
func (r *Relay) chartValues(ctx context.Context, chart ocispec.Descriptor) (values []byte, err error) {
	err = bundle.Walk(ctx, r.store, chart, func(n bundle.Node) error {
		if n.Manifest || n.Descriptor.MediaType != helmContent {
			return nil
		}
		rc, err := r.store.Open(ctx, n.Descriptor)
		if err != nil {
			return err
		}
		values, err = readChartValues(rc)
		return errors.Join(err, rc.Close())
	})
	return values, err
}

func readChartValues(r io.Reader) ([]byte, error) {
	gz, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	archive := tar.NewReader(io.LimitReader(gz, maxChartRead))
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, nil // no values, or so much else before them that it is not worth more memory and time
		}
		if err != nil {
			return nil, err
		}
		if _, name, ok := strings.Cut(strings.TrimPrefix(h.Name, "./"), "/"); ok && name == "values.yaml" && h.Typeflag == tar.TypeReg {
			return io.ReadAll(io.LimitReader(archive, shadow.MaxFile+1))
		}
	}
}
