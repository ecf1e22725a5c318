package gitmirror

import (
	"bytes"
	"io"
	"slices"
	"strings"

	"github.com/plimsoll/plimsoll/bundle"
	"github.com/plimsoll/plimsoll/relay/smarthttp"
)

// lsRefs is a request of gitprotocol-v2(5) for refs.
type lsRefs struct {
	peel, symrefs, unborn bool
	prefixes              []string // none: every ref
}

// maxRefPrefixes is how many prefixes are looked up here; a client of git sends a handful. Git takes 65,535.
const maxRefPrefixes = 256

// refsBuffer is how many bytes of an answer are made before they are sent: a listing of 65,536 refs has megabytes, and
// hundreds of clients may ask for one.
const refsBuffer = 32 << 10

// parseLsRefs reads the body of a request of version 2. It takes what clients of git are known to send and nothing else:
// what is other, odd or broken is not ok, and git itself is asked, so that it is answered, or refused, as git does.
func parseLsRefs(body []byte) (q lsRefs, ok bool) {
	const head, args = 0, 1
	section := head
	for n := 0; ; n++ {
		p, rest, err := smarthttp.CutPkt(body)
		if err != nil {
			return lsRefs{}, false
		}
		body = rest
		switch {
		case p.Kind == smarthttp.PktFlush:
			return q, n > 0 && len(rest) == 0
		case p.Kind == smarthttp.PktDelim && section == head && n > 0:
			section = args
		case p.Kind != smarthttp.PktData:
			return lsRefs{}, false
		case n == 0:
			if string(p.Text()) != "command=ls-refs" {
				return lsRefs{}, false
			}
		case section == head:
			if !harmlessCapability(p.Text()) {
				return lsRefs{}, false
			}
		default:
			if !q.argument(p.Text()) {
				return lsRefs{}, false
			}
		}
	}
}

// harmlessCapability reports whether a line before the arguments has no bearing on the answer.
func harmlessCapability(line []byte) bool {
	return plain(line) && (string(line) == "object-format=sha1" || bytes.HasPrefix(line, []byte("agent=")))
}

func (q *lsRefs) argument(line []byte) bool {
	switch string(line) {
	case "peel":
		q.peel = true
	case "symrefs":
		q.symrefs = true
	case "unborn":
		q.unborn = true
	default:
		prefix, ok := bytes.CutPrefix(line, []byte("ref-prefix "))
		if !ok || !plain(prefix) || len(q.prefixes) == maxRefPrefixes {
			return false
		}
		q.prefixes = append(q.prefixes, string(prefix))
	}
	return true
}

// plain reports that text has no control characters: to git a string ends at a zero byte.
func plain(text []byte) bool {
	return !slices.ContainsFunc(text, func(c byte) bool { return c < 0x20 || c == 0x7f })
}

// answer writes the refs of g as git-upload-pack does.
func (q *lsRefs) answer(out io.Writer, g bundle.Git) error {
	buf := make([]byte, 0, min(refsBuffer, 128*(len(g.Refs)+2))+1024)
	if q.matches("HEAD") {
		buf = q.appendHead(buf, g)
	}
	for _, span := range q.spans(g.Refs) {
		for _, ref := range g.Refs[span[0]:span[1]] {
			buf = q.appendRef(buf, ref.OID, ref.Name, "", ref.Peeled)
			if len(buf) >= refsBuffer {
				if _, err := out.Write(buf); err != nil {
					return err
				}
				buf = buf[:0]
			}
		}
	}
	_, err := out.Write(append(buf, "0000"...))
	return err
}

func (q *lsRefs) appendHead(buf []byte, g bundle.Git) []byte {
	i, found := slices.BinarySearchFunc(g.Refs, g.Head, func(ref bundle.GitRef, name string) int { return strings.Compare(ref.Name, name) })
	switch {
	case found:
		return q.appendRef(buf, g.Refs[i].OID, "HEAD", g.Head, g.Refs[i].Peeled)
	case q.unborn && q.symrefs:
		return q.appendRef(buf, "unborn", "HEAD", g.Head, "")
	}
	return buf
}

// appendRef appends one line; target is what the ref points to by name, if it does.
func (q *lsRefs) appendRef(buf []byte, oid, name, target, peeled string) []byte {
	parts := [8]string{oid, " ", name}
	n := 3
	if q.symrefs && target != "" {
		parts[n], parts[n+1] = " symref-target:", target
		n += 2
	}
	if q.peel && peeled != "" {
		parts[n], parts[n+1] = " peeled:", peeled
		n += 2
	}
	parts[n] = "\n"
	return smarthttp.AppendPkt(buf, parts[:n+1]...)
}

func (q *lsRefs) matches(name string) bool {
	return len(q.prefixes) == 0 || slices.ContainsFunc(q.prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// spans gives the ranges of refs, which are sorted, that have one of the prefixes: in order, each ref once.
func (q *lsRefs) spans(refs []bundle.GitRef) [][2]int {
	if len(q.prefixes) == 0 {
		return [][2]int{{0, len(refs)}}
	}
	var spans [][2]int
	for _, p := range slices.Sorted(slices.Values(q.prefixes)) {
		from, _ := slices.BinarySearchFunc(refs, p, func(ref bundle.GitRef, p string) int { return strings.Compare(ref.Name, p) })
		if len(spans) > 0 { // a prefix of the same beginning as the one before it lies within that one's range
			from = max(from, spans[len(spans)-1][1])
		}
		to := from
		for n := len(refs) - from; n > 0; { // the first ref from here on that does not have the prefix
			half := n / 2
			if strings.HasPrefix(refs[to+half].Name, p) {
				to, n = to+half+1, n-half-1
			} else {
				n = half
			}
		}
		if to > from {
			spans = append(spans, [2]int{from, to})
		}
	}
	return spans
}
