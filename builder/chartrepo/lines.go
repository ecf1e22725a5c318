package chartrepo

import (
	"bytes"
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// readLines finds the versions of one chart by the indentation of lines, and gives only these to YAML, one at a time:
//
//	entries:
//	  nginx:
//	  - version: 1.2.3
//
// All writers of indexes lay them out so. Parsed whole, a public index of 20 MB takes seconds and half a gigabyte, and a
// hostile one of 64 MiB ten gigabytes.
func (s *search) readLines(raw []byte) error {
	l := &layout{search: s, indent: -1, start: -1}
	for at := 0; at < len(raw) && !l.ended; {
		end := len(raw)
		if i := bytes.IndexByte(raw[at:], '\n'); i >= 0 {
			end = at + i + 1
		}
		if err := l.line(raw, at, end); err != nil {
			return err
		}
		at = end
	}
	if !l.entries {
		return fmt.Errorf("%w (%w)", errForm, errNoEntries)
	}
	if !l.ended {
		return l.flush(raw[:len(raw):len(raw)], len(raw))
	}
	return nil
}

// layout is the state between two lines.
type layout struct {
	*search
	started bool // something other than comments was seen
	ended   bool // the first document is over; Helm reads no other
	entries bool // their key was seen
	inside  bool // the present top-level key is entries
	indent  int  // of the charts' names, -1 before the first
	start   int  // of the lines of the chart that is looked for, -1 outside of them
	current bool // a chart's name was seen, which lines may belong to
}

// line takes one line, raw[at:end].
func (l *layout) line(raw []byte, at, end int) error {
	text := bytes.TrimRight(raw[at:end], " \t\r\n")
	depth := len(text) - len(bytes.TrimLeft(text, " "))
	text = text[depth:]
	switch {
	case len(text) == 0 || text[0] == '#':
		return nil
	case depth == 0 && !l.started && (text[0] == '%' || string(text) == "---"):
		return nil
	case depth == 0 && (string(text) == "---" || string(text) == "..."):
		l.ended = true
		return l.flush(raw, at)
	}
	l.started = true
	switch item := isItem(text); {
	case depth == 0 && item && !l.inside, depth > 0 && !l.inside:
		return nil // of another top-level key
	case depth == 0 && !item:
		if err := l.flush(raw, at); err != nil {
			return err
		}
		return l.top(text)
	case depth == 0:
		return errForm
	case l.indent < 0 && !item:
		l.indent = depth
	}
	switch {
	case depth == l.indent && !isItem(text):
		if err := l.flush(raw, at); err != nil {
			return err
		}
		return l.name(text, end)
	case depth < l.indent || !l.current:
		return errForm
	}
	return nil
}

// top takes the line of a top-level key.
func (l *layout) top(text []byte) error {
	key, rest, ok := cutKey(text)
	if !ok {
		return errForm
	}
	l.inside, l.current = key == "entries", false
	if !l.inside {
		return nil
	}
	if l.entries {
		return errors.New("it has entries twice")
	}
	l.entries = true
	if rest != "" && rest != "{}" {
		return errForm
	}
	return nil
}

// name takes the line of a chart's name; its versions begin at next.
func (l *layout) name(text []byte, next int) error {
	key, rest, ok := cutKey(text)
	if !ok || rest != "" && rest != "[]" {
		return errForm
	}
	l.current = rest == ""
	wanted, err := l.chart(key)
	if wanted && l.current {
		l.start = next
	}
	return err
}

// flush reads the versions of the chart when its lines end.
func (l *layout) flush(raw []byte, end int) error {
	if l.start < 0 {
		return nil
	}
	block := raw[l.start:end]
	l.start = -1
	indent, item := -1, -1
	for at := 0; at < len(block); {
		next := len(block)
		if i := bytes.IndexByte(block[at:], '\n'); i >= 0 {
			next = at + i + 1
		}
		text := bytes.TrimRight(block[at:next], " \t\r\n")
		depth := len(text) - len(bytes.TrimLeft(text, " "))
		text = text[depth:]
		switch {
		case len(text) == 0 || text[0] == '#':
		case indent < 0 && isItem(text):
			indent, item = depth, at
		case depth == indent && isItem(text):
			if err := l.item(block[item:at]); err != nil {
				return err
			}
			item = at
		case depth <= indent || indent < 0:
			return errForm
		}
		at = next
	}
	if item < 0 {
		return nil
	}
	return l.item(block[item:])
}

// item reads one version, a list of one element. What is no YAML alone may be YAML with the lines around it.
func (l *layout) item(text []byte) error {
	if len(text) > maxWhole {
		return fmt.Errorf("a version of %s has %d bytes, the limit is %d", l.search.name, len(text), maxWhole)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return fmt.Errorf("%w (%w)", errForm, err)
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.SequenceNode || len(doc.Content[0].Content) != 1 {
		return errForm
	}
	return l.add(fromNode(doc.Content[0].Content[0]))
}

func isItem(text []byte) bool { return text[0] == '-' && (len(text) == 1 || text[1] == ' ') }

// cutKey splits "key: rest", without a comment after it. Keys with escapes and other rarities are not ok.
func cutKey(text []byte) (key, rest string, ok bool) {
	var after []byte
	switch quote := text[0]; {
	case quote == '"' || quote == '\'':
		i := bytes.IndexByte(text[1:], quote)
		if i < 0 {
			return "", "", false
		}
		key, after = string(text[1:i+1]), text[i+2:]
		if len(after) == 0 || after[0] != ':' || bytes.IndexByte(text[:i+1], '\\') >= 0 {
			return "", "", false
		}
		after = after[1:]
	case bytes.IndexByte([]byte("-?:,[]{}#&*!|>%@`\t"), quote) >= 0:
		return "", "", false
	default:
		i := bytes.IndexByte(text, ':')
		if i < 0 {
			return "", "", false
		}
		key, after = string(text[:i]), text[i+1:]
		if bytes.ContainsAny(text[:i], " \t\r#\"'") {
			return "", "", false
		}
	}
	if len(after) > 0 && after[0] != ' ' {
		return "", "", false
	}
	after = bytes.TrimLeft(after, " ")
	if len(after) > 0 && after[0] == '#' {
		after = nil
	}
	return key, string(after), true
}
