package relay

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
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

// A model of what must be here, against random sequences of all that changes it, with collections cut at random.
func TestGCAgainstAModel(t *testing.T) {
	const universe = 7
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			d := newDepot(t, universe)
			var (
				channel  []int // the active one first
				accepted = -1
				here     = make(map[int]bool) // with a record
				pinned   = make(map[int]bool)
				promised = make(map[int]bool)
			)
			stays := func(i int) bool {
				return slices.Contains(channel, i) || pinned[i] || promised[i] || here[i] && i >= accepted
			}
			for range 60 {
				i := rng.IntN(universe)
				rel := d.releases[i]
				switch op := rng.IntN(8); op {
				case 0: // stage
					if i >= accepted {
						d.stage(i, depotChannel)
						here[i] = true
					}
				case 1: // activate
					if here[i] && i > accepted {
						held := func(b digest.Digest) bool {
							j := slices.IndexFunc(d.releases, func(rel Release) bool { return rel.Bundle.Digest == b })
							return pinned[j] || promised[j]
						}
						a, err := d.active().accept(depotChannel, rel, NewerVersion, retention{keep: 2, held: held})
						if err != nil {
							t.Fatal(err)
						}
						d.set(a)
						accepted = i
						n := 1
						channel = append([]int{i}, slices.DeleteFunc(channel, func(j int) bool {
							if pinned[j] || promised[j] {
								return false
							}
							n++
							return n > 2
						})...)
					}
				case 2: // roll back
					if len(channel) > 1 {
						a, err := d.active().rollback(depotChannel, d.releases[channel[1]].Version, keepAll)
						if err != nil {
							t.Fatal(err)
						}
						d.set(a)
						channel[0], channel[1] = channel[1], channel[0]
					}
				case 3: // pin and unpin
					if here[i] && !pinned[i] {
						d.set(d.active().pin(Pin{Bundle: rel.Bundle.Digest, Since: now()}))
						pinned[i] = true
					} else if pinned[i] {
						d.set(d.active().unpin(rel.Bundle.Digest))
						delete(pinned, i)
					}
				case 4: // promise
					var all []digest.Digest
					clear(promised)
					for j := range universe {
						if here[j] && rng.IntN(3) == 0 {
							promised[j] = true
							all = append(all, d.releases[j].Bundle.Digest)
						}
					}
					if err := d.promise(t.Context(), now(), all); err != nil {
						t.Fatal(err)
					}
				case 5: // garbage
					d.admit(fmt.Appendf(nil, "garbage %d", rng.Uint64()))
				default: // collect, sometimes not to its end
					plain, left := d.docs, 1000
					if op == 6 {
						left = rng.IntN(4)
					}
					d.docs = leased{Documents: plain, left: &left}
					_, err := d.GC(t.Context(), GCOptions{})
					d.docs = plain
					if err != nil && (op == 7 || !errors.Is(err, errLost)) {
						t.Fatal(err)
					}
					var all []int
					for j := range universe {
						if here[j] && stays(j) {
							all = append(all, j)
						}
					}
					d.mustHaveAll(all...)
					if err == nil {
						d.mustHold(all...)
					}
					recs, err := d.records(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					clear(here)
					for _, rec := range recs {
						here[slices.IndexFunc(d.releases, rec.Release().same)] = true
					}
				}
				if t.Failed() {
					t.Fatalf("channel %v, accepted %d, here %v, pinned %v, promised %v", channel, accepted, here, pinned, promised)
				}
			}
		})
	}
}

// On a disk without a free byte a collection makes room, and a release can be dropped.
func TestGCOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("no file systems can be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	d := newDepot(t, 4)
	r, err := Open(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	d.Relay = r
	d.serve(2, 0, 1, 2)
	d.stage(3, depotChannel)
	d.gc(GCOptions{})
	d.mustHold(1, 2, 3)
	d.gitless(1, 2)
	var journal []string
	d.options.Journal = journalFunc(func(kind string) error {
		f, err := os.OpenFile(filepath.Join(dir, "records"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		_, err = f.Write(bytes.Repeat([]byte{'x'}, 512))
		journal = append(journal, kind)
		return errors.Join(err, f.Close())
	})
	full := func() {
		t.Helper()
		f, err := os.OpenFile(filepath.Join(dir, "ballast"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = f.Write(make([]byte, 64<<10))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	full()
	if _, err := d.Drop(t.Context(), d.releases[1].Name, "v1.2.0", DropOptions{}); err != nil {
		t.Errorf("drop: %v, %v", err, journal)
	}
	d.gc(GCOptions{})
	d.mustHold(2, 3)
	full()
	// The whole room is taken by a blob that nothing needs.
	name := digest.FromString("garbage")
	path := filepath.Join(d.dir, "store", "blobs", "sha256", name.Encoded()[:2], name.Encoded())
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(d.dir, "ballast"), path); err != nil {
		t.Fatal(err)
	}
	d.gc(GCOptions{})
	d.mustHold(2, 3)
}
