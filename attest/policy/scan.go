package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

// Limits of a document that is scanned, whatever its size.
const (
	maxText = 4 << 10 // bytes of a text that is kept
	maxKey  = 4 << 10 // bytes of a field's name
	maxWord = 1 << 20 // bytes of any other text: it is not kept, but nobody writes more into one
	maxKeys = 1 << 16 // fields of one object: their names are remembered to find duplicates
)

// node says what is wanted of one place in a JSON document. A nil node is a place of which nothing is wanted.
type node struct {
	fields map[string]*node
	closed bool                               // no other fields
	each   func(x *sketch, key string) *node  // of every field; instead of fields
	elem   *node                              // of a list
	text   func(x *sketch, text string) error // of a string or a number
	enter  func(x *sketch, kind byte) error   // before the value: '{', '[', '"', '0', 't' (also f), 'n'
	leave  func(x *sketch) error              // after it
}

// scan reads exactly one JSON value from a stream and calls what nodes ask for. It accepts no document that
// strictjson.Check refuses, and it holds one buffer, the names of the open objects, and the text it is at: an SBOM of
// 30 MB passes through it in a few kilobytes. A fuzz target compares the two.
func scan(r io.Reader, root *node, x *sketch) error {
	return (&scanner{r: r, x: x, buf: make([]byte, 0, 32<<10)}).document(root)
}

// scanBytes scans what is in memory, where it is. The bytes are not changed and not kept.
func scanBytes(data []byte, root *node, x *sketch) error {
	return (&scanner{x: x, buf: data, err: io.EOF}).document(root)
}

func (s *scanner) document(root *node) error {
	if err := s.value(root, 0); err != nil {
		return s.explain(err)
	}
	switch c, err := s.token(); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return s.explain(err)
	default:
		return fmt.Errorf("data %q after the JSON value at byte %d", c, s.offset())
	}
}

type scanner struct {
	r    io.Reader
	x    *sketch
	buf  []byte
	pos  int
	base int64 // offset of buf in the stream
	err  error // of r
	word []byte
	// names of the fields of all open objects, one behind the other
	names []byte
	ends  []int
}

func (s *scanner) offset() int64 { return s.base + int64(s.pos) }

// readError is what the stream said, to be told from what is wrong with its bytes.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

func (s *scanner) explain(err error) error {
	var read *readError
	if errors.As(err, &read) {
		return err
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("the JSON ends at byte %d: %w", s.offset(), io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("%w at byte %d", err, s.offset())
}

// fill makes n bytes available behind pos, if the stream has them.
func (s *scanner) fill(n int) error {
	for len(s.buf)-s.pos < n {
		if s.err != nil {
			return s.err
		}
		if s.pos > 0 {
			s.base += int64(s.pos)
			s.buf = s.buf[:copy(s.buf, s.buf[s.pos:])]
			s.pos = 0
		}
		m, err := s.r.Read(s.buf[len(s.buf):cap(s.buf)])
		s.buf = s.buf[:len(s.buf)+m]
		if err != nil {
			s.err = err
			if !errors.Is(err, io.EOF) {
				s.err = &readError{err}
			}
		}
	}
	return nil
}

func (s *scanner) byte() (byte, error) {
	if s.pos == len(s.buf) {
		if err := s.fill(1); err != nil {
			return 0, err
		}
	}
	c := s.buf[s.pos]
	s.pos++
	return c, nil
}

// token skips white space and gives the byte behind it, without taking it.
func (s *scanner) token() (byte, error) {
	for {
		if s.pos == len(s.buf) {
			if err := s.fill(1); err != nil {
				return 0, err
			}
		}
		switch c := s.buf[s.pos]; c {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return c, nil
		}
	}
}

func (s *scanner) value(n *node, depth int) error {
	c, err := s.token()
	if err != nil {
		return err
	}
	if n != nil && n.enter != nil {
		kind := c
		switch {
		case c == '-' || c >= '0' && c <= '9':
			kind = '0'
		case c == 'f':
			kind = 't'
		}
		if err := n.enter(s.x, kind); err != nil {
			return err
		}
	}
	switch {
	case c == '{' || c == '[':
		if depth >= strictjson.MaxDepth {
			return fmt.Errorf("nested deeper than %d", strictjson.MaxDepth)
		}
		s.pos++
		if c == '{' {
			err = s.object(n, depth)
		} else {
			err = s.list(n, depth)
		}
	case c == '"':
		s.pos++
		err = s.scalar(n, s.text)
	case c == '-' || c >= '0' && c <= '9':
		err = s.scalar(n, s.number)
	case c == 't':
		err = s.literal("true")
	case c == 'f':
		err = s.literal("false")
	case c == 'n':
		err = s.literal("null")
	default:
		err = fmt.Errorf("unexpected %q", c)
	}
	if err == nil && n != nil && n.leave != nil {
		err = n.leave(s.x)
	}
	return err
}

// scalar reads a text or a number and hands it on when it is wanted.
func (s *scanner) scalar(n *node, read func(keep bool, limit int) error) error {
	if n == nil || n.text == nil {
		return read(false, maxWord)
	}
	if err := read(true, maxText); err != nil {
		return err
	}
	return n.text(s.x, string(s.word))
}

func (s *scanner) literal(word string) error {
	for i := range len(word) {
		c, err := s.byte()
		if err != nil {
			return err
		}
		if c != word[i] {
			return fmt.Errorf("unexpected %q in a literal", c)
		}
	}
	return nil
}

func (s *scanner) list(n *node, depth int) error {
	var elem *node
	if n != nil {
		elem = n.elem
	}
	for first := true; ; first = false {
		c, err := s.token()
		switch {
		case err != nil:
			return err
		case c == ']':
			s.pos++
			return nil
		}
		if !first {
			if c != ',' {
				return fmt.Errorf("unexpected %q in a list", c)
			}
			s.pos++
			if c, err = s.token(); err != nil {
				return err
			}
			if c == ']' {
				return errors.New("a comma before the end of a list")
			}
		}
		if err := s.value(elem, depth+1); err != nil {
			return err
		}
	}
}

func (s *scanner) object(n *node, depth int) error {
	names, ends := len(s.names), len(s.ends)
	var many map[string]struct{} // of a large object
	for first := true; ; first = false {
		c, err := s.token()
		if err != nil {
			return err
		}
		if c == '}' {
			s.pos++
			s.names, s.ends = s.names[:names], s.ends[:ends]
			return nil
		}
		if !first {
			if c != ',' {
				return fmt.Errorf("unexpected %q in an object", c)
			}
			s.pos++
			if c, err = s.token(); err != nil {
				return err
			}
		}
		if c != '"' {
			return fmt.Errorf("unexpected %q, want the name of a field", c)
		}
		s.pos++
		if err := s.text(true, maxKey); err != nil {
			return err
		}
		if many, err = s.remember(names, ends, many); err != nil {
			return err
		}
		child, err := s.child(n)
		if err != nil {
			return err
		}
		if c, err = s.token(); err != nil {
			return err
		}
		if c != ':' {
			return fmt.Errorf("unexpected %q behind the name of a field", c)
		}
		s.pos++
		if err := s.value(child, depth+1); err != nil {
			return err
		}
	}
}

// child finds what is wanted of the field whose name was read.
func (s *scanner) child(n *node) (*node, error) {
	switch {
	case n == nil:
		return nil, nil
	case n.each != nil:
		return n.each(s.x, string(s.word)), nil
	}
	child, ok := n.fields[string(s.word)]
	if !ok && n.closed {
		return nil, fmt.Errorf("unknown field %q", s.word)
	}
	return child, nil
}

const fewKeys = 24

// remember finds duplicate names in the open object, whatever their case: parsers disagree about those.
func (s *scanner) remember(names, ends int, many map[string]struct{}) (map[string]struct{}, error) {
	count := len(s.ends) - ends
	if count >= maxKeys {
		return nil, fmt.Errorf("an object of more than %d fields", maxKeys)
	}
	if many == nil && count < fewKeys {
		from := names
		for _, end := range s.ends[ends:] {
			if bytes.EqualFold(s.names[from:end], s.word) {
				return nil, fmt.Errorf("duplicate key %q", s.word)
			}
			from = end
		}
	} else {
		if many == nil {
			many = make(map[string]struct{}, 2*fewKeys)
			from := names
			for _, end := range s.ends[ends:] {
				many[fold(s.names[from:end])] = struct{}{}
				from = end
			}
		}
		folded := fold(s.word)
		if _, dup := many[folded]; dup {
			return nil, fmt.Errorf("duplicate key %q", s.word)
		}
		many[folded] = struct{}{}
	}
	s.names = append(s.names, s.word...)
	s.ends = append(s.ends, len(s.names))
	return many, nil
}

// fold gives equal strings for what bytes.EqualFold calls equal.
func fold(b []byte) string { return string(bytes.ToLower(bytes.ToUpper(b))) }

// text reads a string behind its opening quote, into word when it is kept.
func (s *scanner) text(keep bool, limit int) error {
	s.word = s.word[:0]
	length := 0
	for {
		if s.pos == len(s.buf) {
			if err := s.fill(1); err != nil {
				return err
			}
		}
		// What needs no thought, in one go.
		from := s.pos
		for s.pos < len(s.buf) {
			if c := s.buf[s.pos]; c == '"' || c == '\\' || c < ' ' || c >= utf8.RuneSelf {
				break
			}
			s.pos++
		}
		if length += s.pos - from; length > limit {
			return fmt.Errorf("a text of more than %d bytes", limit)
		}
		if keep {
			s.word = append(s.word, s.buf[from:s.pos]...)
		}
		if s.pos == len(s.buf) {
			continue
		}
		switch c := s.buf[s.pos]; {
		case c == '"':
			s.pos++
			return nil
		case c == '\\':
			s.pos++
			if err := s.escape(keep); err != nil {
				return err
			}
			length++
		case c < ' ':
			return fmt.Errorf("a control character %q in a text", c)
		default:
			if err := s.fill(utf8.UTFMax); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			r, size := utf8.DecodeRune(s.buf[s.pos:])
			if r == utf8.RuneError && (size <= 1 || keep) {
				return errors.New("not valid UTF-8")
			}
			if keep {
				s.word = append(s.word, s.buf[s.pos:s.pos+size]...)
			}
			s.pos += size
			length += size
		}
	}
}

func (s *scanner) escape(keep bool) error {
	c, err := s.byte()
	if err != nil {
		return err
	}
	if i := bytes.IndexByte([]byte(`"\/bfnrt`), c); i >= 0 {
		if keep {
			s.word = append(s.word, "\"\\/\b\f\n\r\t"[i])
		}
		return nil
	}
	if c != 'u' {
		return fmt.Errorf("unknown escape \\%c", c)
	}
	r, err := s.hex()
	if err != nil {
		return err
	}
	if utf16.IsSurrogate(r) {
		low := rune(-1)
		if s.fill(2) == nil && s.buf[s.pos] == '\\' && s.buf[s.pos+1] == 'u' {
			s.pos += 2
			if low, err = s.hex(); err != nil {
				return err
			}
		}
		// encoding/json writes U+FFFD where others fail; nobody needs such a text.
		if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
			return errors.New("half a surrogate pair")
		}
	}
	if r == utf8.RuneError && keep {
		return errors.New("not a valid Unicode string")
	}
	if keep {
		s.word = utf8.AppendRune(s.word, r)
	}
	return nil
}

func (s *scanner) hex() (rune, error) {
	var r rune
	for range 4 {
		c, err := s.byte()
		if err != nil {
			return 0, err
		}
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, fmt.Errorf("unexpected %q in an escape", c)
		}
	}
	return r, nil
}

// number reads a number into word. It is a text to us: who wants a number parses it.
func (s *scanner) number(_ bool, limit int) error {
	s.word = s.word[:0]
	for {
		if s.pos == len(s.buf) {
			if err := s.fill(1); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return err
			}
		}
		c := s.buf[s.pos]
		if (c < '0' || c > '9') && c != '-' && c != '+' && c != '.' && c != 'e' && c != 'E' {
			break
		}
		s.word = append(s.word, c)
		s.pos++
		if len(s.word) > min(limit, 1024) {
			return errors.New("a number of more than 1024 digits")
		}
	}
	if !isNumber(s.word) {
		return fmt.Errorf("%q is no number", s.word)
	}
	return nil
}

// isNumber is the grammar of RFC 8259, section 6.
func isNumber(b []byte) bool {
	digits := func() bool {
		n := len(b)
		for len(b) > 0 && b[0] >= '0' && b[0] <= '9' {
			b = b[1:]
		}
		return len(b) < n
	}
	b = bytes.TrimPrefix(b, []byte("-"))
	if bytes.HasPrefix(b, []byte("0")) {
		b = b[1:]
	} else if !digits() {
		return false
	}
	if bytes.HasPrefix(b, []byte(".")) {
		if b = b[1:]; !digits() {
			return false
		}
	}
	if len(b) > 0 && (b[0] == 'e' || b[0] == 'E') {
		if b = b[1:]; len(b) > 0 && (b[0] == '+' || b[0] == '-') {
			b = b[1:]
		}
		if !digits() {
			return false
		}
	}
	return len(b) == 0
}
