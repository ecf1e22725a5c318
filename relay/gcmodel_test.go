package relay

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
)

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
