package media

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"

	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/plimsoll/plimsoll/bundle"
)

// maxMounts bounds what is asked for one blob.
const maxMounts = 16

// candidate is a repository of the destination's registry that may have a blob.
type candidate struct {
	repository string
	certain    bool // it has it
}

func checkMounts(r reference, repositories []string) error {
	if len(repositories) > maxMounts {
		return r.errorf("%d repositories to mount from, the limit is %d", len(repositories), maxMounts)
	}
	for _, name := range repositories {
		other := r.repo
		other.Repository = name
		if other.ValidateRepository() != nil {
			return r.errorf("cannot mount from %q: not the name of a repository of %s", name, r.repo.Registry)
		}
	}
	return nil
}

// sources gives the repositories from which the blobs of a bundle may be mounted: where it is copied from, where the item
// came from, and what the options say.
type sources struct {
	always []candidate
	byItem map[string]string
}

func newSources(dst Sink, src Source, l *bundle.Lock) sources {
	to, ok := dst.(*remote)
	if !ok {
		return sources{}
	}
	s := sources{byItem: make(map[string]string)}
	own := to.repo.Reference
	if from, ok := src.(*remote); ok && from.repo.Reference.Registry == own.Registry && from.repo.Reference.Repository != own.Repository {
		s.always = append(s.always, candidate{from.repo.Reference.Repository, true})
	}
	for _, name := range to.mounts {
		if name != own.Repository {
			s.always = append(s.always, candidate{repository: name})
		}
	}
	for _, it := range l.Items {
		ref, err := registry.ParseReference(it.Repository)
		if err == nil && ref.Registry == own.Registry && ref.Repository != own.Repository {
			s.byItem[it.Name] = ref.Repository
		}
	}
	return s
}

func (s sources) of(item string) []candidate {
	if name := s.byItem[item]; name != "" && !slices.ContainsFunc(s.always, func(c candidate) bool { return c.repository == name }) {
		return append(slices.Clip(s.always), candidate{repository: name})
	}
	return s.always
}

// mount has the registry take a blob from another of its repositories (OCI distribution-spec 1.1, "Mounting a blob from
// another repository"). A registry that does not has opened an upload instead, which is used.
func (u *upload) mount(ctx context.Context, from []candidate) (bool, error) {
	for _, c := range from {
		if u.r.barren(c.repository) {
			continue
		}
		other := u.r.repo.Reference
		other.Repository = c.repository
		cctx := auth.AppendRepositoryScope(ctx, other, auth.ActionPull)
		err := u.askFor(cctx, c)
		if err == nil {
			err = u.start(cctx, url.Values{"mount": {u.desc.Digest.String()}, "from": {c.repository}})
			if err == nil {
				return u.at == nil, nil
			}
		}
		var gaveUp *GaveUpError
		var answered *errcode.ErrorResponse
		switch {
		case ctx.Err() != nil, errors.As(err, &gaveUp):
			return false, err
		case errors.As(err, &answered) && answered.StatusCode == http.StatusNotFound:
			continue
		}
		u.r.setBarren(c.repository) // it refuses, or the token does
	}
	return false, nil
}

// askFor fails when a repository does not have the blob: to find out by mounting would open an upload each time.
func (u *upload) askFor(ctx context.Context, c candidate) error {
	if c.certain {
		return nil
	}
	ctx = context.WithValue(ctx, uploadKey{}, nil) // this may be redirected
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, u.r.url(c.repository, "blobs", u.desc.Digest.String()).String(), nil)
	if err != nil {
		return err
	}
	resp, err := u.r.http.Do(req)
	if err != nil {
		return err
	}
	a, err := readAnswer(resp)
	if err == nil && a.status != http.StatusOK {
		err = a.err
	}
	return err
}

func (r *remote) barren(repository string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mountsNo[repository]
}

func (r *remote) setBarren(repository string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mountsNo[repository] = true
}
