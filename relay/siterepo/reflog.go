package siterepo

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxReflog is how much of a reflog's end is read: it is asked about the last few pushes.
const maxReflog = 64 << 10 // bytes

// reflogLine is a line as git writes it: old and new object, committer, time and zone, and what was done.
var reflogLine = regexp.MustCompile(`^([0-9a-f]{40,64}) ([0-9a-f]{40,64}) (.{0,400}) <[^<>]*> ([0-9]{1,12}) [+-][0-9]{4}(?:\t.*)?$`)

// fromReflog gives the pushes that led from p.Old to p.New, by the reflog of p.Ref; p alone, without the operator's name,
// when the reflog does not lead from one to the other. A line for a change that was never made can stand in it: git
// writes the line first.
func fromReflog(repo string, p Push) []Push {
	text, err := tail(filepath.Join(repo, "logs", filepath.FromSlash(p.Ref)), maxReflog)
	if err != nil {
		return []Push{p}
	}
	var chain []Push
	want := p.New
	for _, l := range slices.Backward(strings.Split(strings.TrimSuffix(text, "\n"), "\n")) {
		m := reflogLine.FindStringSubmatch(l)
		if m == nil {
			return []Push{p}
		}
		if oid(m[2]) != want {
			if len(chain) > 0 {
				return []Push{p}
			}
			continue // behind the last change that was made
		}
		q := p
		q.Old, q.New, q.Who = oid(m[1]), want, cutName(m[3])
		if seconds, err := strconv.ParseInt(m[4], 10, 64); err == nil {
			q.Time = time.Unix(seconds, 0)
		}
		chain = append(chain, q)
		if want = q.Old; want == p.Old {
			slices.Reverse(chain)
			return chain
		}
	}
	return []Push{p}
}

// cutName makes a name from a file one that the history takes.
func cutName(s string) string {
	s = printable(strings.ToValidUTF8(s, ""))
	return strings.ToValidUTF8(s[:min(len(s), maxWho)], "")
}

// tail reads the end of a file, from the start of a line.
func tail(path string, size int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	start := max(0, fi.Size()-size)
	data, err := io.ReadAll(io.NewSectionReader(f, start, size))
	text := string(data)
	if start > 0 {
		_, text, _ = strings.Cut(text, "\n")
	}
	return text, err
}
