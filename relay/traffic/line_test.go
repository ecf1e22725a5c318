package traffic

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestLineAgainstModel runs random operations and compares each answer with a plain model: a list of what waits, in order of
// arrival, and for each owner how many turns the others had since its own could have come.
func TestLineAgainstModel(t *testing.T) {
	for seed := range uint64(200) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 4))
			m := &lineModel{t: t, limit: rng.IntN(4), owners: 1 + rng.IntN(6), running: map[int]int{}, waiting: map[int][]*item[int, int]{}, since: map[int]map[int]int{}}
			m.line = newLine[int, int](m.limit)
			for range 400 {
				m.step(rng)
				m.check()
			}
			m.drain()
		})
	}
}

type lineModel struct {
	t       *testing.T
	line    line[int, int]
	limit   int
	owners  int
	serial  int
	running map[int]int
	waiting map[int][]*item[int, int]
	since   map[int]map[int]int // for each owner whose turn may come: turns of each other since then
}

func (m *lineModel) eligible(k int) bool {
	return len(m.waiting[k]) > 0 && (m.limit == 0 || m.running[k] < m.limit)
}

func (m *lineModel) step(rng *rand.Rand) {
	k := rng.IntN(m.owners)
	switch op := rng.IntN(10); {
	case op < 4:
		m.serial++
		m.waiting[k] = append(m.waiting[k], m.line.push(k, m.serial))
	case op < 6 && m.line.ready():
		m.pop()
	case op < 7 && m.running[k] > 0:
		m.running[k]--
		m.line.done(k)
	case op < 8 && m.line.may(k):
		m.running[k]++
		m.line.start(k)
	case op < 9 && len(m.waiting[k]) > 0:
		i := rng.IntN(len(m.waiting[k]))
		it := m.waiting[k][i]
		m.waiting[k] = slices.Delete(m.waiting[k], i, i+1)
		m.line.remove(it)
		m.line.remove(it) // does nothing
	}
}

func (m *lineModel) pop() {
	want := map[int]int{}
	for k, items := range m.waiting {
		if m.eligible(k) {
			want[k] = items[0].value
		}
	}
	k, v := m.line.pop()
	if first, ok := want[k]; !ok || first != v {
		m.t.Fatalf("pop gave %d of owner %d; the first of each whose turn may come: %v", v, k, want)
	}
	m.waiting[k] = m.waiting[k][1:]
	m.running[k]++
	delete(m.since, k)
	for other, turns := range m.since {
		if turns[k]++; turns[k] > 1 {
			m.t.Fatalf("owner %d had %d turns while owner %d waited", k, turns[k], other)
		}
	}
}

func (m *lineModel) check() {
	total, ready, longest, known := 0, false, 0, 0
	for k := range m.owners {
		n := len(m.waiting[k])
		total += n
		longest = max(longest, n)
		if n > 0 || m.running[k] > 0 {
			known++
		}
		if may := m.limit == 0 || m.running[k] < m.limit; m.line.may(k) != may {
			m.t.Fatalf("may(%d) is %t", k, !may)
		}
		switch e := m.eligible(k); {
		case !e:
			delete(m.since, k)
		case m.since[k] == nil:
			m.since[k] = map[int]int{}
			ready = true
		default:
			ready = true
		}
	}
	if m.line.waiting != total || m.line.ready() != ready || len(m.line.owners) != known {
		m.t.Fatalf("waiting %d, ready %t, owners %d; want %d, %t, %d", m.line.waiting, m.line.ready(), len(m.line.owners), total, ready, known)
	}
	if o := m.line.longest(); (o == nil) != (longest == 0) || o != nil && o.waiting != longest {
		m.t.Fatalf("longest is %+v, want one with %d", o, longest)
	}
}

// drain shows that nothing is kept of owners that are gone.
func (m *lineModel) drain() {
	for k := range m.owners {
		for _, it := range m.waiting[k] {
			m.line.remove(it)
		}
		for range m.running[k] {
			m.line.done(k)
		}
	}
	if len(m.line.owners) != 0 || m.line.turn != nil || len(m.line.most) != 0 {
		m.t.Fatalf("left over: %d owners, turn %v, %d ranked", len(m.line.owners), m.line.turn, len(m.line.most))
	}
}
