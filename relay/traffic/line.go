package traffic

import "container/heap"

// line is what waits, and whose it is: first come, first served within one owner, and owners in turn. It also counts what
// of each owner runs. An owner is known only while something of it waits or runs, so the line is as big as its bounds.
//
// An owner of which as many run as may is not in the ring: a client at its bound costs the others no look.
type line[K comparable, T any] struct {
	limit   int // how many of one owner may run; 0 is no bound
	waiting int
	owners  map[K]*owner[K, T]
	turn    *owner[K, T] // the ring's first; nil when nobody's turn can come
	most    byWaiting[K, T]
}

type owner[K comparable, T any] struct {
	key         K
	running     int
	waiting     int
	first, last *item[K, T]
	next, prev  *owner[K, T] // in the ring; nil outside
	rank        int          // in most; meaningful while something waits
}

type item[K comparable, T any] struct {
	value      T
	owner      *owner[K, T] // nil when it waits no more
	next, prev *item[K, T]
}

func newLine[K comparable, T any](limit int) line[K, T] {
	return line[K, T]{limit: limit, owners: make(map[K]*owner[K, T])}
}

// may tells whether one more of k may run.
func (l *line[K, T]) may(k K) bool {
	o := l.owners[k]
	return o == nil || !l.atLimit(o)
}

func (l *line[K, T]) atLimit(o *owner[K, T]) bool { return l.limit > 0 && o.running >= l.limit }

// ready tells whether somebody's turn can come.
func (l *line[K, T]) ready() bool { return l.turn != nil }

func (l *line[K, T]) owner(k K) *owner[K, T] {
	o := l.owners[k]
	if o == nil {
		o = &owner[K, T]{key: k}
		l.owners[k] = o
	}
	return o
}

// start counts one more of k that runs.
func (l *line[K, T]) start(k K) {
	o := l.owner(k)
	o.running++
	l.settle(o)
}

// done counts one less of k that runs.
func (l *line[K, T]) done(k K) {
	o := l.owners[k]
	o.running--
	l.settle(o)
}

// push lets v wait as the last of k.
func (l *line[K, T]) push(k K, v T) *item[K, T] {
	o := l.owner(k)
	it := &item[K, T]{value: v, owner: o, prev: o.last}
	if o.last == nil {
		o.first = it
	} else {
		o.last.next = it
	}
	o.last = it
	o.waiting++
	l.waiting++
	if o.waiting == 1 {
		heap.Push(&l.most, o)
	} else {
		heap.Fix(&l.most, o.rank)
	}
	l.settle(o)
	return it
}

// remove takes it out of the line. One that waits no more is left alone.
func (l *line[K, T]) remove(it *item[K, T]) {
	o := it.owner
	if o == nil {
		return
	}
	if it.prev == nil {
		o.first = it.next
	} else {
		it.prev.next = it.next
	}
	if it.next == nil {
		o.last = it.prev
	} else {
		it.next.prev = it.prev
	}
	it.owner, it.next, it.prev = nil, nil, nil
	o.waiting--
	l.waiting--
	if o.waiting == 0 {
		heap.Remove(&l.most, o.rank)
	} else {
		heap.Fix(&l.most, o.rank)
	}
	l.settle(o)
}

// pop lets the next one run: the first of the owner whose turn it is. That owner's next turn comes after everybody else's.
// The line must be ready.
func (l *line[K, T]) pop() (K, T) {
	o := l.turn
	l.turn = o.next
	it := o.first
	o.running++
	l.remove(it)
	return o.key, it.value
}

// longest is the owner of which most wait, nil when nothing does.
func (l *line[K, T]) longest() *owner[K, T] {
	if len(l.most) == 0 {
		return nil
	}
	return l.most[0]
}

// settle puts o where its counts say: into the ring at its end, out of it, or out of the line.
func (l *line[K, T]) settle(o *owner[K, T]) {
	switch in := o.next != nil; {
	case !in && o.waiting > 0 && !l.atLimit(o):
		l.enring(o)
	case in && (o.waiting == 0 || l.atLimit(o)):
		l.unring(o)
	}
	if o.waiting == 0 && o.running == 0 {
		delete(l.owners, o.key)
	}
}

func (l *line[K, T]) enring(o *owner[K, T]) {
	if l.turn == nil {
		o.next, o.prev, l.turn = o, o, o
		return
	}
	o.next, o.prev = l.turn, l.turn.prev
	o.prev.next, o.next.prev = o, o
}

func (l *line[K, T]) unring(o *owner[K, T]) {
	if o.next == o {
		l.turn = nil
	} else {
		o.prev.next, o.next.prev = o.next, o.prev
		if l.turn == o {
			l.turn = o.next
		}
	}
	o.next, o.prev = nil, nil
}

// byWaiting is a heap.Interface: the owner of which most wait comes first.
type byWaiting[K comparable, T any] []*owner[K, T]

func (h byWaiting[K, T]) Len() int           { return len(h) }
func (h byWaiting[K, T]) Less(i, j int) bool { return h[i].waiting > h[j].waiting }
func (h byWaiting[K, T]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].rank, h[j].rank = i, j
}

func (h *byWaiting[K, T]) Push(x any) {
	o := x.(*owner[K, T])
	o.rank = len(*h)
	*h = append(*h, o)
}

func (h *byWaiting[K, T]) Pop() any {
	last := len(*h) - 1
	o := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return o
}
