package gitmirror

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/plimsoll/plimsoll/relay/smarthttp"
	"github.com/plimsoll/plimsoll/relay/traffic"
)

// TestHostileRequests: each is answered with an error or with what it may have, and others are served meanwhile.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	s, source, site := newSite(t, Options{HTTP: smarthttp.Options{Packs: traffic.NewQueue(traffic.QueueOptions{Slots: 2, PerClient: 1})}})
	pkt := smarthttp.PktLine
	main := s.Git(source, "rev-parse", "main")
	fetch := func(lines ...string) string {
		return pkt("command=fetch\n") + "0001" + strings.Join(lines, "") + pkt("done\n") + "0000"
	}
	wants := func(n int, oid func(i int) string) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(pkt("want " + oid(i) + "\n"))
		}
		return b.String()
	}
	stranger := func(i int) string { return fmt.Sprintf("%040x", i+1) }
	whole := []string{"packfile"} // what an answer with a pack begins with
	for name, tc := range map[string]struct {
		request string
		parts   []string // of the answer; none: it is an error, or nothing
	}{
		"wants of unknown objects":      {fetch(wants(100_000, stranger)), []string{"ERR upload-pack: not our ref " + stranger(0)}},
		"one want, 100,000 times":       {fetch(wants(100_000, func(int) string { return main })), whole},
		"100,000 haves":                 {fetch(wants(1, func(int) string { return main }), strings.ReplaceAll(wants(100_000, stranger), "0032want", "0032have")), whole},
		"100,000 shallow lines":         {fetch(wants(1, func(int) string { return main }), strings.ReplaceAll(wants(100_000, stranger), "0032want", "0035shallow")), []string{"shallow commits"}},
		"wants that are no ids":         {fetch(wants(1000, func(int) string { return strings.Repeat("z", 40) })), nil},
		"a length that lies":            {pkt("command=fetch\n") + "0001" + "fff0want " + main, nil},
		"a length beyond the longest":   {pkt("command=fetch\n") + "0001" + "ffffwant " + main + strings.Repeat("x", 70_000), nil},
		"no length":                     {strings.Repeat("want "+main+"\n", 100), nil},
		"nothing but empty lines":       {strings.Repeat("0004", 100_000), nil},
		"a depth without end":           {fetch(pkt("want "+main+"\n"), pkt("deepen 2147483647\n")), whole},
		"a filter by a file in the way": {fetch(pkt("want "+main+"\n"), pkt("filter sparse:oid="+stranger(1)+"\n")), nil},
		"a command of another program":  {pkt("command=object-info\n") + "0001" + pkt("oid "+main) + "0000", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := site.post(t, place, tc.request)
			if a.err != nil && tc.parts != nil {
				t.Error(a.err)
			}
			for _, part := range tc.parts {
				if !strings.Contains(a.body, part) {
					t.Errorf("%d %.200q, want %q", a.status, a.body, part)
				}
			}
			if tc.parts == nil && strings.Contains(a.body, "PACK") {
				t.Errorf("answered with a pack: %.200q", a.body)
			}
			// Another client.
			if got := s.Git(s.Home, "ls-remote", site.url(), "refs/heads/main"); got != main+"\trefs/heads/main" {
				t.Errorf("others see %q", got)
			}
		})
	}
}

// TestRequestsAreBounded: what is larger than any client's request is not taken in.
func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	_, _, site := newSite(t, Options{})
	line := smarthttp.PktLine("want " + strings.Repeat("a", 40) + "\n")
	a := site.post(t, place, smarthttp.PktLine("command=fetch\n")+"0001"+strings.Repeat(line, (17<<20)/len(line)))
	if a.err == nil && a.status != 413 { // the connection may be closed while the client still sends
		t.Errorf("17 MiB of wants: %d %.100q %v", a.status, a.body, errors.Unwrap(a.err))
	}
}
