package hooks

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
)

const (
	oid1 = "1111111111111111111111111111111111111111"
	oid2 = "2222222222222222222222222222222222222222"
	oid3 = "3333333333333333333333333333333333333333"
)

func release(version string) Release {
	return Release{Name: "robot-stack", Version: version, Bundle: "sha256:" + version}
}

func sample() Served {
	return Served{
		Generation: 1,
		Channels:   []Channel{{"stable", release("v1")}},
		Repositories: []Repository{
			{"github.com/acme/deploy", "refs/heads/main", []Ref{{"refs/heads/main", oid1}, {"refs/tags/v1", oid1}}},
			{"github.com/acme/infra", "refs/heads/main", []Ref{{"refs/heads/main", oid2}}},
		},
	}
}

// after is sample one release later: a branch moved, a tag was made, a repository went.
func after() Served {
	return Served{
		Generation: 2,
		Channels:   []Channel{{"stable", release("v2")}},
		Repositories: []Repository{
			{"github.com/acme/deploy", "refs/heads/main", []Ref{{"refs/heads/main", oid3}, {"refs/tags/v1", oid1}, {"refs/tags/v2", oid3}}},
		},
	}
}

func TestDifference(t *testing.T) {
	v1 := release("v1")
	if got := difference(sample(), sample()); got != nil {
		t.Errorf("nothing changed: %+v", got)
	}
	want := &pending{Channels: []changed{{"stable", &v1}}, Refs: []changedRef{
		{"github.com/acme/deploy", "refs/heads/main", oid1},
		{"github.com/acme/deploy", "refs/tags/v2", ""},
		{"github.com/acme/infra", "refs/heads/main", oid2},
	}}
	if got := difference(sample(), after()); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	// HEAD leads elsewhere: who follows it has another commit.
	moved := sample()
	moved.Repositories[0].Refs = append([]Ref{{"refs/heads/dev", oid2}}, moved.Repositories[0].Refs...)
	other := moved
	other.Repositories = append([]Repository{}, moved.Repositories...)
	other.Repositories[0].Head = "refs/heads/dev"
	if got := difference(moved, other); got == nil || len(got.Refs) != 1 || got.Refs[0] != (changedRef{"github.com/acme/deploy", "refs/heads/dev", oid2}) {
		t.Errorf("%+v", got)
	}
}

func TestDifferenceIsBounded(t *testing.T) {
	many := sample()
	for i := range maxPendingRefs {
		many.Repositories[0].Refs = append(many.Repositories[0].Refs, Ref{fmt.Sprintf("refs/tags/t%05d", i), oid1})
	}
	p := difference(Served{}, many)
	if !p.All || p.Refs != nil {
		t.Errorf("%d refs are remembered", len(p.Refs))
	}
	if _, refs := p.resolve(Hook{}, many); len(refs) != maxPendingRefs+3 {
		t.Errorf("%d refs are told", len(refs))
	}
	a, b := difference(sample(), after()), &pending{}
	for i := range maxPendingRefs {
		b.Refs = append(b.Refs, changedRef{"z", fmt.Sprintf("refs/tags/t%05d", i), ""})
	}
	if p := a.merge(b); !p.All || p.Refs != nil || len(p.Channels) != 1 {
		t.Errorf("%+v", p)
	}
}

func TestConcerns(t *testing.T) {
	all, canary := Hook{}, Hook{Channels: []string{"canary"}}
	stable := difference(sample(), after())
	if !stable.concerns(all) || stable.concerns(canary) {
		t.Error("a change of stable concerns who wants all, and not who wants canary")
	}
	// Another precedence changes what is served of the repositories, and no channel.
	refs := &pending{Refs: stable.Refs}
	if !refs.concerns(all) || !refs.concerns(canary) || (*pending)(nil).concerns(all) {
		t.Error("a change of refs alone concerns everybody, no change nobody")
	}
	if everything(canary, sample()) != nil || everything(all, Served{}) != nil {
		t.Error("nothing of the channel is served")
	}
	channels, refsNow := everything(all, sample()).resolve(all, sample())
	if len(channels) != 1 || channels[0].Previous != nil || len(refsNow) != 3 {
		t.Errorf("%v %v", channels, refsNow)
	}
}

// Whatever generations came since a hook was told, it is told of every ref and channel that was different in any of them:
// it may have fetched any.
func TestPendingProperty(t *testing.T) {
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 1))
		told := random(rng)
		var p *pending
		views := []Served{told}
		for range 1 + rng.IntN(6) {
			next := random(rng)
			p = p.merge(difference(views[len(views)-1], next))
			views = append(views, next)
		}
		got := make(map[changedRef]bool)
		channels := make(map[string]*Release)
		if p != nil {
			for i, r := range p.Refs {
				got[r] = true
				if i > 0 && compareRef(p.Refs[i-1], r) >= 0 {
					t.Fatalf("seed %d: not sorted, or twice: %v", seed, p.Refs)
				}
			}
			for _, c := range p.Channels {
				channels[c.Channel] = c.Previous
			}
		}
		before := told.refs()
		for _, v := range views {
			now := v.refs()
			for _, repo := range []string{"r0", "r1"} {
				for i := range 3 {
					ref := fmt.Sprintf("refs/heads/b%d", i)
					if was := before[repo][ref]; was != now[repo][ref] && !got[changedRef{repo, ref, was}] {
						t.Fatalf("seed %d: %s %s changed from %q and is not told: %v", seed, repo, ref, was, p)
					}
				}
			}
			for _, c := range v.Channels {
				previous, told1 := channels[c.Channel]
				was := channelOf(told, c.Channel)
				if (was == nil || *was != c.Release) && !told1 || told1 && !reflect.DeepEqual(previous, was) {
					t.Fatalf("seed %d: channel %s: told %v %v, was %v", seed, c.Channel, told1, previous, was)
				}
			}
		}
	}
}

func channelOf(s Served, name string) *Release {
	for _, c := range s.Channels {
		if c.Channel == name {
			return &c.Release
		}
	}
	return nil
}

// random has channels c0 and c1 always, like a relay: they come and never go.
func random(rng *rand.Rand) Served {
	s := Served{Generation: rng.Uint64()}
	for i := range 2 {
		s.Channels = append(s.Channels, Channel{fmt.Sprintf("c%d", i), release(fmt.Sprintf("v%d", rng.IntN(3)))})
		repo := Repository{Path: fmt.Sprintf("r%d", i), Head: "refs/heads/b0"}
		for j := range 3 {
			if rng.IntN(3) > 0 {
				repo.Refs = append(repo.Refs, Ref{fmt.Sprintf("refs/heads/b%d", j), fmt.Sprint(rng.IntN(2))})
			}
		}
		if rng.IntN(4) > 0 {
			s.Repositories = append(s.Repositories, repo)
		}
	}
	return s
}
