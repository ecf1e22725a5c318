package registry

import (
	"math"
	"net/http"
	"strings"
)

// maxRanges is how many ranges of one request are answered as such; with more, all of the content is sent. A header full
// of ranges costs the client little and would cost the relay a part header and a seek for each.
const maxRanges = 64

// span is a part of the content, in bytes.
type span struct{ first, length int64 }

// parseRange reads the Range header for content of size bytes (RFC 9110, 14.2). No spans and ok mean that all of the
// content is the answer: another unit than bytes, more than maxRanges, more bytes than the content has, or content without
// a byte, for clients that put a range into every request. Not ok means 416.
func parseRange(header string, size int64) (spans []span, ok bool) {
	unit, list, found := strings.Cut(header, "=")
	if !found || !strings.EqualFold(strings.Trim(unit, " \t"), "bytes") || strings.Count(list, ",") >= maxRanges {
		return nil, true
	}
	seen, total := false, int64(0)
	for spec := range strings.SplitSeq(list, ",") {
		spec = strings.Trim(spec, " \t")
		if spec == "" {
			continue
		}
		seen = true
		s, fits, valid := parseSpan(spec, size)
		if !valid {
			return nil, false
		}
		if fits {
			spans = append(spans, s)
			total += s.length // at most maxRanges times a file's size
		}
	}
	switch {
	case !seen:
		return nil, false
	case size == 0, total > size:
		return nil, true
	}
	return spans, len(spans) > 0
}

// parseSpan reads an int-range or a suffix-range; fits means that at least one byte of it is in the content.
func parseSpan(spec string, size int64) (s span, fits, valid bool) {
	from, to, found := strings.Cut(spec, "-")
	from, to = strings.TrimRight(from, " \t"), strings.TrimLeft(to, " \t")
	first, okFrom := parseNumber(from)
	last, okTo := parseNumber(to)
	switch {
	case !found, from == "" && to == "", from != "" && !okFrom, to != "" && !okTo:
		return s, false, false
	case from == "": // the last bytes
		length := min(last, size)
		return span{size - length, length}, length > 0, true
	case to == "":
		last = math.MaxInt64
	case last < first:
		return s, false, false
	}
	if first >= size {
		return s, false, true
	}
	return span{first, min(last, size-1) - first + 1}, true, true
}

// parseNumber reads decimal digits. A number that is too large is as large as can be: whatever it counts ends before.
func parseNumber(s string) (n int64, ok bool) {
	for i := range len(s) {
		d := int64(s[i]) - '0'
		if d < 0 || d > 9 {
			return 0, false
		}
		if n > (math.MaxInt64-d)/10 {
			n = math.MaxInt64
			continue
		}
		n = n*10 + d
	}
	return n, s != ""
}

// wantedSpans evaluates the conditions of a GET or HEAD in the order of RFC 9110, 13.2.2. Status is 200, 206 (with
// spans), 304, 412 or 416. There are no dates here, so conditions on dates do not count.
func wantedSpans(r *http.Request, etag string, size int64) (spans []span, status int) {
	header := r.Header
	if list := header["If-Match"]; list != nil && !matches(list, etag, false) {
		return nil, http.StatusPreconditionFailed
	}
	if list := header["If-None-Match"]; list != nil && matches(list, etag, true) {
		return nil, http.StatusNotModified
	}
	ranges := header["Range"]
	if len(ranges) != 1 || r.Method != http.MethodGet {
		return nil, http.StatusOK // RFC 9110, 14.2: a range of a HEAD does not count
	}
	if list := header["If-Range"]; list != nil && (len(list) != 1 || strings.Trim(list[0], " \t") != etag) {
		return nil, http.StatusOK
	}
	spans, ok := parseRange(ranges[0], size)
	switch {
	case !ok:
		return nil, http.StatusRequestedRangeNotSatisfiable
	case spans == nil:
		return nil, http.StatusOK
	}
	return spans, http.StatusPartialContent
}

// matches reports whether one of the entity tags in the lines of a header is etag; a weak one counts if weak is set
// (RFC 9110, 8.8.3.2).
func matches(lines []string, etag string, weak bool) bool {
	for _, line := range lines {
		for {
			line = strings.TrimLeft(line, " \t,")
			if strings.HasPrefix(line, "*") {
				return true
			}
			strong, isWeak := strings.CutPrefix(line, "W/")
			end := tagEnd(strong)
			if end == 0 {
				break // the end, or not an entity tag
			}
			if strong[:end] == etag && (weak || !isWeak) {
				return true
			}
			line = strong[end:]
		}
	}
	return false
}

// tagEnd gives the length of the entity tag that s starts with, 0 if there is none.
func tagEnd(s string) int {
	for i := 1; i < len(s) && s[0] == '"'; i++ {
		switch c := s[i]; {
		case c == '"':
			return i + 1
		case c <= ' ', c == 0x7f:
			return 0
		}
	}
	return 0
}
