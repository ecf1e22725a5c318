package gitpack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/plimsoll/plimsoll/bundle"
)

func (p *packer) fetch(ctx context.Context, names []string) error {
	refspecs := make([]string, len(names))
	for i, name := range names {
		refspecs[i] = "+" + name + ":" + name
	}
	return p.fetchRefspecs(ctx, refspecs...)
}

func (p *packer) fetchRefspecs(ctx context.Context, refspecs ...string) error {
	err := p.git.remote(ctx, p.repo, strings.NewReader(strings.Join(refspecs, "\n")+"\n"), func(string) error { return nil },
		"fetch", "--quiet", "--stdin", "--no-tags", "--no-write-fetch-head", "--update-shallow", "--", p.source)
	if err != nil {
		return p.inSource(ctx, err)
	}
	switch info, err := os.Stat(filepath.Join(p.repo, "shallow")); {
	case err == nil && info.Size() > 0:
		return &ShallowError{Source: p.o.Source}
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("git %s: %w", p.o.Source, err)
	}
	return nil
}

// pinnedNames checks what a lock pinned before it gets near a refspec.
func (p *packer) pinnedNames() ([]string, error) {
	if len(p.o.Pinned) > bundle.MaxGitRefs {
		return nil, &SourceError{Source: p.o.Source, Reason: fmt.Sprintf("%d refs are pinned, the limit is %d", len(p.o.Pinned), bundle.MaxGitRefs)}
	}
	names := make([]string, 0, len(p.o.Pinned))
	for _, ref := range p.o.Pinned {
		if err := bundle.CheckGitRef(ref.Name); err != nil {
			return nil, &SourceError{Source: p.o.Source, Reason: "pinned: " + err.Error()}
		}
		if !sha1Pattern.MatchString(ref.OID) {
			return nil, &SourceError{Source: p.o.Source, Reason: fmt.Sprintf("pinned: %s at %.100q, which is not a SHA-1 object id", ref.Name, ref.OID)}
		}
		names = append(names, ref.Name)
	}
	slices.Sort(names)
	for i := 1; i < len(names); i++ {
		if names[i-1] == names[i] {
			return nil, &SourceError{Source: p.o.Source, Reason: "pinned: " + names[i] + " comes twice"}
		}
	}
	return names, nil
}

// fetchPinned brings the pinned objects under their names: by name where the source still is there, else by object id.
func (p *packer) fetchPinned(ctx context.Context, there *listing) error {
	var names []string
	for _, ref := range p.o.Pinned {
		if there.oids[ref.Name] == ref.OID {
			names = append(names, ref.Name)
		}
	}
	have := make(map[string]string)
	if len(names) > 0 {
		if err := p.fetch(ctx, names); err != nil {
			return err
		}
		refs, err := p.readRefs(ctx)
		if err != nil {
			return err
		}
		for _, ref := range refs { // some may have moved since they were listed
			have[ref.Name] = ref.OID
		}
	}
	var moved []bundle.GitRef
	for _, ref := range p.o.Pinned {
		if have[ref.Name] != ref.OID {
			moved = append(moved, ref)
		}
	}
	if len(moved) == 0 {
		return nil
	}
	refspecs := make([]string, len(moved))
	for i, ref := range moved {
		refspecs[i] = byID(ref)
	}
	// What is here with all it leads to, git does not ask for again.
	if err := p.fetchRefspecs(ctx, refspecs...); !isRefusal(err) {
		return err
	}
	return p.fetchAround(ctx, there, moved)
}

func byID(ref bundle.GitRef) string { return "+" + ref.OID + ":" + ref.Name }

// fetchAround is for servers that give only what their refs name: all of their refs may lead to what is wanted.
func (p *packer) fetchAround(ctx context.Context, there *listing, moved []bundle.GitRef) error {
	const aside = "refs/plimsoll/" // no branch and no tag
	if len(there.names) > 0 {
		if err := p.fetchRefspecs(ctx, "+refs/heads/*:"+aside+"heads/*", "+refs/tags/*:"+aside+"tags/*"); err != nil {
			return err
		}
	}
	for _, ref := range moved {
		err := p.fetchRefspecs(ctx, byID(ref))
		if isRefusal(err) {
			return &GoneError{Source: p.o.Source, Ref: ref.Name, OID: ref.OID, Err: err}
		}
		if err != nil {
			return err
		}
	}
	var drop strings.Builder
	err := p.git.lines(ctx, p.repo, nil, func(name string) error {
		drop.WriteString("delete " + name + "\n")
		return nil
	}, "for-each-ref", "--format=%(refname)", aside)
	if err == nil {
		err = p.git.lines(ctx, p.repo, strings.NewReader(drop.String()), func(string) error { return nil }, "update-ref", "--stdin")
	}
	if err != nil {
		return fmt.Errorf("git %s: %w", p.o.Source, err)
	}
	return nil
}

// isRefusal reports whether a source said that it does not have, or does not give, an object that was asked for by its id.
func isRefusal(err error) bool {
	var ge *GitError
	if !errors.As(err, &ge) {
		return false
	}
	for _, phrase := range []string{"not our ref", "unadvertised object", "couldn't find remote ref"} {
		if strings.Contains(ge.Stderr, phrase) {
			return true
		}
	}
	return false
}

// checkPinned: a source that gave something else than was pinned must not go unnoticed.
func (p *packer) checkPinned(refs []bundle.GitRef) error {
	if len(p.o.Pinned) == 0 {
		return nil
	}
	have := make(map[string]bundle.GitRef, len(refs))
	for _, ref := range refs {
		have[ref.Name] = ref
	}
	for _, want := range p.o.Pinned {
		got := have[want.Name]
		if got.OID != want.OID || want.Peeled != "" && got.Peeled != want.Peeled {
			return fmt.Errorf("git %s: %s is %s %s, pinned is %s %s", p.o.Source, want.Name, got.OID, got.Peeled, want.OID, want.Peeled)
		}
	}
	if len(refs) != len(p.o.Pinned) {
		return fmt.Errorf("git %s: %d refs were fetched, %d are pinned", p.o.Source, len(refs), len(p.o.Pinned))
	}
	return nil
}
