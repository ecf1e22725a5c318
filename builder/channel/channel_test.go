package channel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
)

// registry is a repository with tags: what a registry can do, and no more.
type registry struct {
	mu     sync.Mutex
	tags   map[string]digest.Digest
	signed map[digest.Digest][]uint64
}

func newRegistry(tags ...string) *registry {
	r := &registry{tags: make(map[string]digest.Digest), signed: make(map[digest.Digest][]uint64)}
	for _, t := range tags {
		r.tags[t] = digest.FromString(t)
	}
	return r
}

// job releases one bundle; step is called before each of its requests.
type job struct {
	*registry
	bundle digest.Digest
	step   func()
}

func (j job) Tags(context.Context) ([]string, error) {
	j.step()
	j.mu.Lock()
	defer j.mu.Unlock()
	var all []string
	for t := range j.tags {
		all = append(all, t)
	}
	slices.Sort(all)
	return all, nil
}

func (j job) Tag(_ context.Context, tag string) error {
	j.step()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.tags[tag] = j.bundle
	return nil
}

func (j job) Signed(_ context.Context, tag, _ string) ([]uint64, error) {
	return j.signed[j.tags[tag]], nil
}

func (r *registry) job(bundle digest.Digest) job { return job{r, bundle, func() {}} }

func TestNext(t *testing.T) {
	a, b, c := digest.FromString("a"), digest.FromString("b"), digest.FromString("c")
	at := func(n uint64, d digest.Digest) string { return NewClaim("stable", n, d).Tag() }
	for name, tc := range map[string]struct {
		tags   []string
		bundle digest.Digest
		wanted uint64
		want   uint64
		err    any
	}{
		"the first":                        {nil, a, 0, 1, nil},
		"the next":                         {[]string{at(1, a)}, b, 0, 2, nil},
		"numbers are no texts":             {[]string{at(9, a), at(10, b)}, c, 0, 11, nil},
		"again":                            {[]string{at(1, a), at(2, b)}, b, 0, 2, nil},
		"an older bundle, meant":           {[]string{at(1, a), at(2, b)}, a, 0, 3, nil},
		"after two that gave up":           {[]string{at(2, a), at(2, b)}, a, 0, 3, nil},
		"another channel":                  {[]string{"canary.7." + a.Encoded()[:16]}, b, 0, 1, nil},
		"a channel with the name's begin":  {[]string{"stable.x.7." + a.Encoded()[:16]}, b, 0, 1, nil},
		"other tags":                       {[]string{"stable", "v1.5.4", "stable.07." + a.Encoded()[:16], "stable.0." + a.Encoded()[:16], "stable.7.XY"}, b, 0, 1, nil},
		"wanted":                           {[]string{at(1, a)}, b, 40, 40, nil},
		"wanted, and it is there":          {[]string{at(1, a), at(4, b)}, b, 4, 4, nil},
		"wanted, and it is another's":      {[]string{at(4, a)}, b, 4, 0, &OlderError{}},
		"wanted, and it is older":          {[]string{at(4, a)}, a, 3, 0, &OlderError{}},
		"nobody comes so far by releasing": {[]string{at(1, a), at(9007199254740991, b)}, c, 0, 0, &AheadError{}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(tc.tags...)
			got, err := Next(t.Context(), r.job(tc.bundle), "stable", tc.bundle, tc.wanted)
			if tc.err == nil && (err != nil || got != tc.want) {
				t.Errorf("%d, %v; want %d", got, err, tc.want)
			}
			if tc.err != nil && fmt.Sprintf("%T", err) != fmt.Sprintf("%T", tc.err) {
				t.Errorf("%d, %v; want %T", got, err, tc.err)
			}
			if tc.err != nil && len(r.tags) != len(tc.tags) {
				t.Errorf("a refused claim was made: %v", r.tags)
			}
		})
	}
}

// A long history is no trouble when its last number is signed.
func TestLongHistory(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	r := newRegistry()
	tag := NewClaim("stable", 4000, a).Tag()
	r.tags[tag], r.signed[a] = a, []uint64{3999, 4000}
	if got, err := Next(t.Context(), r.job(b), "stable", b, 0); err != nil || got != 4001 {
		t.Errorf("%d, %v", got, err)
	}
	r.signed[a] = []uint64{2000}
	var ahead *AheadError
	if got, err := Next(t.Context(), r.job(b), "stable", b, 0); !errors.As(err, &ahead) || ahead.Signed != 2000 {
		t.Errorf("%d, %v", got, err)
	}
}

// Two jobs release two bundles; every order in which their requests can come is tried. Never do both get the same number.
func TestRace(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	won, raced := 0, 0
	for order := range 1 << 6 {
		r := newRegistry(NewClaim("stable", 1, digest.FromString("before")).Tag())
		turns := [2]chan struct{}{make(chan struct{}), make(chan struct{})}
		type outcome struct {
			n   uint64
			err error
		}
		var got [2]outcome
		ended := [2]chan struct{}{make(chan struct{}), make(chan struct{})}
		for i, d := range []digest.Digest{a, b} {
			j := job{r, d, func() { <-turns[i] }}
			go func() {
				defer close(ended[i])
				got[i].n, got[i].err = Next(t.Context(), j, "stable", d, 0)
			}()
		}
		turn := func(i int) bool {
			select {
			case turns[i] <- struct{}{}:
				return true
			case <-ended[i]:
				return false
			}
		}
		for i := range 6 {
			turn(order >> i & 1)
		}
		for i := range turns {
			for turn(i) {
			}
		}
		var race *RaceError
		for _, o := range got {
			if o.err == nil {
				won++
			} else if errors.As(o.err, &race) {
				raced++
			} else {
				t.Fatal(o.err)
			}
		}
		if got[0].err == nil && got[1].err == nil && got[0].n == got[1].n {
			t.Fatalf("order %06b: both have %d", order, got[0].n)
		}
		// Whoever lost tries again and gets a number.
		for i, d := range []digest.Digest{a, b} {
			if got[i].err == nil {
				continue
			}
			n, err := Next(t.Context(), r.job(d), "stable", d, 0)
			if err != nil || n == got[1-i].n && got[1-i].err == nil {
				t.Fatalf("order %06b: again: %d, %v", order, n, err)
			}
			got[i] = outcome{n, nil}
		}
	}
	if won == 0 || raced == 0 {
		t.Errorf("%d won, %d gave up: the orders show nothing", won, raced)
	}
}

func FuzzParseClaim(f *testing.F) {
	f.Add("stable.12.0123456789abcdef")
	f.Add("a.b.1.0123456789abcdef")
	f.Add(".1.0123456789abcdef")
	f.Add("stable.+1.0123456789abcdef")
	f.Fuzz(func(t *testing.T, tag string) {
		c, ok := ParseClaim(tag)
		if ok && (c.Tag() != tag || c.Sequence == 0 || c.Channel == "" || strings.Contains(c.Bundle, ".")) {
			t.Errorf("%q is read as %+v", tag, c)
		}
	})
}
