package relay

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/internal/testbundle"
)

// allowedIn gives the digests of a repository, those of kept releases with a minus.
func allowedIn(a Allowed, repository string) (all []string) {
	for _, img := range a.Images {
		switch {
		case img.Repository != repository:
		case img.Active:
			all = append(all, img.Digest.String())
		default:
			all = append(all, "-"+img.Digest.String())
		}
	}
	slices.Sort(all)
	return all
}

func TestAllowedListsActiveAndKept(t *testing.T) {
	r, first, next, b := site(t, Options{})
	second := testbundle.New(t, testbundle.Options{Version: "v1.5.5", Content: "another"})
	want := func(b *testbundle.Bundle, sign string) (all []string) {
		all = append(all, sign+b.Lock.Items[0].Descriptor.Digest.String())
		for _, m := range b.Image.Manifests {
			all = append(all, sign+m.Digest.String())
		}
		return all
	}
	got, err := r.Allowed(t.Context())
	if err != nil || got.Generation != 4 || len(got.Problems) > 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	const app = "ghcr.io/acme/robot-app"
	if all := allowedIn(got, app); len(all) != 3 || !slices.Equal(all, slices.Sorted(slices.Values(want(b, "")))) {
		t.Errorf("%v, want %v", all, want(b, ""))
	}
	for _, img := range got.Images {
		if strings.Contains(img.Repository, "charts") || strings.HasPrefix(img.Repository, "files/") || img.Repository == "" {
			t.Errorf("%+v is no image", img)
		}
	}

	// The staged release is not allowed before it is active; the one before it is kept then.
	r.setActive(t, Active{Generation: 5, Channels: []Channel{{Name: first.Name, Release: next, Previous: []Release{first}, Accepted: next}}})
	if got, err = r.Allowed(t.Context()); err != nil || got.Generation != 5 {
		t.Fatalf("%+v, %v", got, err)
	}
	both := slices.Sorted(slices.Values(append(want(b, "-"), want(second, "")...)))
	if all := allowedIn(got, app); !slices.Equal(all, both) {
		t.Errorf("%v, want %v", all, both)
	}
}

// Of an image of which one platform of two travels, the other one is not allowed.
func TestAllowedLeavesOutWhatDoesNotTravel(t *testing.T) {
	r, _, _, b := site(t, Options{})
	got, err := r.Allowed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var item string
	for _, it := range b.Lock.Items {
		if it.Sparse {
			item = it.Repository
		}
	}
	if all := allowedIn(got, item); len(all) != 2 {
		t.Errorf("%s: %v, want the index and one manifest", item, all)
	}
}

func TestAllowedWithDamage(t *testing.T) {
	r, first, next, _ := site(t, Options{})
	r.setActive(t, Active{Generation: 5, Channels: []Channel{{Name: first.Name, Release: next, Previous: []Release{first}, Accepted: next}}})
	r.lose(t, first.Bundle.Digest)
	got, err := r.Allowed(t.Context())
	if err != nil || len(got.Problems) != 1 || !strings.Contains(got.Problems[0], first.String()) || len(got.Images) == 0 {
		t.Errorf("a kept release that is gone: %+v, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Allowed(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	r.lose(t, next.Bundle.Digest)
	if got, err := r.Allowed(t.Context()); err == nil || !strings.Contains(err.Error(), next.String()) {
		t.Errorf("an active release that is gone: %+v, %v", got, err)
	}
}

func TestAllowedOfAnEmptyRelay(t *testing.T) {
	r, err := Open(t.Context(), t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Allowed(t.Context()); err != nil || got.Generation != 0 || len(got.Images) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}
