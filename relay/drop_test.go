package relay

import (
	"errors"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"
)

// gitless makes the part of a release say that it has no Git repositories: those of these bundles only look like some.
func (d *depot) gitless(versions ...int) {
	d.Helper()
	for _, i := range versions {
		p, err := d.part(d.Context(), d.releases[i])
		if err != nil {
			d.Fatal(err)
		}
		data, err := (&part{Part: p.Part}).encode()
		if err != nil {
			d.Fatal(err)
		}
		if err := os.WriteFile(d.partFile(d.releases[i]), data, 0o644); err != nil {
			d.Fatal(err)
		}
	}
}

func TestDrop(t *testing.T) {
	d := newDepot(t, 5)
	d.serve(4, 0, 1, 2, 3)
	d.stage(4, depotChannel)
	d.gitless(0, 1, 2, 3)
	name := d.releases[0].Name
	drop := func(version string, o DropOptions) error {
		_, err := d.Drop(t.Context(), name, version, o)
		return err
	}
	d.set(d.active().pin(Pin{Bundle: d.releases[0].Bundle.Digest, Since: now()}))
	if err := d.promise(t.Context(), now(), []digest.Digest{d.releases[1].Bundle.Digest}); err != nil {
		t.Fatal(err)
	}
	var held *HeldError
	if err := drop("v1.4.0", DropOptions{BreakPromise: true}); !errors.As(err, &held) || held.Channel != depotChannel {
		t.Errorf("the active one: %v", err)
	}
	if err := drop("v1.1.0", DropOptions{BreakPromise: true}); !errors.As(err, &held) || !held.Pinned {
		t.Errorf("a pinned one: %v", err)
	}
	if err := drop("v1.2.0", DropOptions{}); !errors.As(err, &held) || !held.Promised {
		t.Errorf("a promised one: %v", err)
	}
	var absent *NoReleaseError
	if err := drop("v9", DropOptions{}); !errors.As(err, &absent) {
		t.Errorf("none: %v", err)
	}
	d.gc(GCOptions{})
	d.mustHold(0, 1, 2, 3, 4)

	before := d.active().Generation
	for _, version := range []string{"v1.5.0", "v1.3.0"} {
		if err := drop(version, DropOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := drop("v1.2.0", DropOptions{BreakPromise: true}); err != nil {
		t.Fatal(err)
	}
	if err := drop("v1.2.0", DropOptions{}); !errors.As(err, &absent) {
		t.Errorf("a second time: %v", err)
	}
	// What is served changed twice, and with it the generation: a staged release serves nothing.
	if a := d.active(); a.Generation != before+2 || len(a.Channels[0].Previous) != 1 {
		t.Errorf("%+v", a)
	}
	d.gc(GCOptions{})
	d.mustHold(0, 3)
}
