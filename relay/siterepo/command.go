package siterepo

import (
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"

	"github.com/plimsoll/plimsoll/relay/smarthttp"
)

// The limits of what stands before the pack of a push.
const (
	maxCommands = 1000    // refs in one push
	maxHead     = 1 << 20 // bytes
	maxRef      = 1024    // bytes of a ref's name
)

// command asks for one ref to be changed (gitprotocol-pack(5)). An oid is empty where git has zeros.
type command struct{ ref, old, new string }

// pushHead is what stands before the pack.
type pushHead struct {
	commands []command
	caps     map[string]bool // without their values
}

// headError says that a request is not what git sends.
type headError struct{ reason string }

func (e *headError) Error() string { return "push request: " + e.reason }

var commandPattern = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64}) ([0-9a-f]{40}|[0-9a-f]{64}) ([!-~\x{80}-\x{10ffff}]+)$`)

var shallowPattern = regexp.MustCompile(`^shallow ([0-9a-f]{40}|[0-9a-f]{64})$`)

// readHead reads up to the pack. A request without commands is git's question whether it may push at all.
func readHead(r io.Reader) (*pushHead, error) {
	r = io.LimitReader(r, maxHead)
	h := &pushHead{caps: make(map[string]bool)}
	first := true
	for {
		pkt, err := smarthttp.ReadPkt(r)
		var bad *smarthttp.PktError
		switch {
		case errors.Is(err, io.EOF):
			return nil, &headError{"it ends before its pack"}
		case errors.As(err, &bad):
			return nil, &headError{bad.Error()}
		case err != nil:
			return nil, err
		case pkt.Kind == smarthttp.PktFlush:
			return h, nil
		case pkt.Kind != smarthttp.PktData:
			return nil, &headError{"a packet that is no command"}
		}
		line := string(pkt.Text())
		if shallowPattern.MatchString(line) {
			continue
		}
		if first {
			var caps string
			line, caps, _ = strings.Cut(line, "\x00")
			for _, c := range strings.Fields(caps) {
				name, _, _ := strings.Cut(c, "=")
				h.caps[name] = true
			}
			first = false
		}
		m := commandPattern.FindStringSubmatch(line)
		if m == nil || len(m[3]) > maxRef {
			return nil, &headError{fmt.Sprintf("%.100q is no command", line)}
		}
		if len(h.commands) == maxCommands {
			return nil, &headError{fmt.Sprintf("more than %d refs", maxCommands)}
		}
		h.commands = append(h.commands, command{ref: m[3], old: oid(m[1]), new: oid(m[2])})
	}
}

// oid is empty for git's zeros.
func oid(hex string) string {
	if strings.Trim(hex, "0") == "" {
		return ""
	}
	return hex
}

// keptRef reports a branch or a tag; other refs are not kept.
func keptRef(ref string) bool {
	return strings.HasPrefix(ref, "refs/heads/") || strings.HasPrefix(ref, "refs/tags/")
}

// forced reports whether AllowForce names a ref.
func (s *Set) forced(ref string) bool {
	for _, pattern := range s.opts.AllowForce {
		if ok, err := path.Match(pattern, ref); ok && err == nil || strings.HasSuffix(pattern, "/") && strings.HasPrefix(ref, pattern) {
			return true
		}
	}
	return false
}

// refuse says why a command is not allowed. That a branch only moves forward is left to git, which has the commits; git
// in turn protects no tags. What a command says of the old value is true, or git refuses it.
func (s *Set) refuse(c command) string {
	switch {
	case !keptRef(c.ref):
		return "only branches and tags are kept here"
	case s.forced(c.ref):
		return ""
	case c.new == "":
		return "it is protected: it cannot be deleted"
	case strings.HasPrefix(c.ref, "refs/tags/") && c.old != "" && c.old != c.new:
		return "it is protected: a tag stays where it is"
	}
	return ""
}

// check refuses a push of which one command is not allowed.
func (s *Set) check(h *pushHead) *RefusedError {
	var refused *RefusedError
	for _, c := range h.commands {
		reason := s.refuse(c)
		if reason == "" {
			continue
		}
		if refused == nil {
			refused = &RefusedError{Reason: reason}
		}
		refused.Refs = append(refused.Refs, c.ref)
	}
	return refused
}

// allForced reports whether a push changes only what may be forced.
func (s *Set) allForced(h *pushHead) bool {
	for _, c := range h.commands {
		if !s.forced(c.ref) {
			return false
		}
	}
	return true
}

// report answers a push as git-receive-pack does (gitprotocol-pack(5), report-status): reason says for each ref why it was
// not changed. What is said besides is shown to the user as "remote: …".
func (h *pushHead) report(said string, reason func(command) string) []byte {
	var status []byte
	if h.caps["report-status"] || h.caps["report-status-v2"] {
		status = smarthttp.AppendPkt(status, "unpack ok\n")
		for _, c := range h.commands {
			status = smarthttp.AppendPkt(status, "ng ", c.ref, " ", reason(c), "\n")
		}
		status = append(status, "0000"...)
	}
	if !h.caps["side-band-64k"] {
		return status
	}
	var out []byte
	if said != "" {
		out = smarthttp.AppendPkt(out, "\x02", said, "\n")
	}
	for len(status) > 0 {
		n := min(len(status), smarthttp.MaxPktData-1)
		out = smarthttp.AppendPkt(out, "\x01", string(status[:n]))
		status = status[n:]
	}
	return append(out, "0000"...)
}

// refusedBy reads the report of git-receive-pack: which refs it did not change, and why. nil: it changed all.
func (h *pushHead) refusedBy(said []byte) *RefusedError {
	status := said
	if h.caps["side-band-64k"] {
		status = nil
		for {
			pkt, rest, err := smarthttp.CutPkt(said)
			if err != nil || pkt.Kind != smarthttp.PktData || len(pkt.Data) == 0 {
				break
			}
			if said = rest; pkt.Data[0] == 1 {
				status = append(status, pkt.Data[1:]...)
			}
		}
	}
	var refused *RefusedError
	unpack := ""
	for {
		pkt, rest, err := smarthttp.CutPkt(status)
		if err != nil || pkt.Kind != smarthttp.PktData {
			return refused
		}
		status = rest
		text := printable(string(pkt.Text()))
		if why, ok := strings.CutPrefix(text, "unpack "); ok && why != "ok" {
			unpack = why + ": "
		}
		ref, why, ok := strings.Cut(strings.TrimPrefix(text, "ng "), " ")
		if !ok || !strings.HasPrefix(text, "ng ") {
			continue
		}
		if refused == nil {
			refused = &RefusedError{Reason: unpack + why}
		}
		refused.Refs = append(refused.Refs, ref)
	}
}
