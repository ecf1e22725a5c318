package smarthttp

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
)

// PktKind says what a pkt-line is (gitprotocol-common(5), gitprotocol-v2(5)).
type PktKind int

// The kinds of pkt-lines.
const (
	PktData  PktKind = iota // 0005 to fff0, and the empty 0004
	PktFlush                // 0000: the end of a message
	PktDelim                // 0001: the end of a section
	PktEnd                  // 0002: the end of a response
)

// MaxPktData is how many bytes a pkt-line carries at most.
const MaxPktData = 65516

const pktHead = 4 // bytes: the length in hex, itself included

// Pkt is a pkt-line.
type Pkt struct {
	Kind PktKind
	Data []byte // of PktData, with its line feed if it has one
}

// Text is the data without the one line feed that may end it.
func (p Pkt) Text() []byte { return bytes.TrimSuffix(p.Data, []byte("\n")) }

// PktError says that bytes are no pkt-line.
type PktError struct{ Reason string }

func (e *PktError) Error() string { return "pkt-line: " + e.Reason }

// PktLine frames text, which must not be longer than MaxPktData.
func PktLine(text string) string { return fmt.Sprintf("%04x%s", len(text)+pktHead, text) }

// AppendPkt appends text as a pkt-line to buf; it must not be longer than MaxPktData.
func AppendPkt(buf []byte, text ...string) []byte {
	const hex = "0123456789abcdef"
	n := pktHead
	for _, s := range text {
		n += len(s)
	}
	buf = append(buf, hex[n>>12&15], hex[n>>8&15], hex[n>>4&15], hex[n&15])
	for _, s := range text {
		buf = append(buf, s...)
	}
	return buf
}

// CutPkt takes the first pkt-line off data, which it shares. The error is io.EOF at the end of data, and else a *PktError.
func CutPkt(data []byte) (p Pkt, rest []byte, err error) {
	if len(data) == 0 {
		return Pkt{}, nil, io.EOF
	}
	if len(data) < pktHead {
		return Pkt{}, data, &PktError{Reason: fmt.Sprintf("it ends after %d bytes", len(data))}
	}
	kind, n, err := parsePktHead([pktHead]byte(data))
	if err != nil {
		return Pkt{}, data, err
	}
	data = data[pktHead:]
	if n > len(data) {
		return Pkt{}, data, &PktError{Reason: fmt.Sprintf("it ends after %d bytes of %d", len(data), n)}
	}
	return Pkt{Kind: kind, Data: data[:n:n]}, data[n:], nil
}

// ReadPkt reads one pkt-line and nothing behind it. The error is io.EOF at the end of r, what r says, or a *PktError.
func ReadPkt(r io.Reader) (Pkt, error) {
	var head [pktHead]byte
	if n, err := io.ReadFull(r, head[:]); err == io.ErrUnexpectedEOF {
		return Pkt{}, &PktError{Reason: fmt.Sprintf("it ends after %d bytes", n)}
	} else if err != nil {
		return Pkt{}, err
	}
	kind, n, err := parsePktHead(head)
	if err != nil || n == 0 {
		return Pkt{Kind: kind}, err
	}
	data := make([]byte, n)
	if got, err := io.ReadFull(r, data); err == io.EOF || err == io.ErrUnexpectedEOF {
		return Pkt{}, &PktError{Reason: fmt.Sprintf("it ends after %d bytes of %d", got, n)}
	} else if err != nil {
		return Pkt{}, err
	}
	return Pkt{Kind: kind, Data: data}, nil
}

// skipPkt passes over one pkt-line, without keeping it, and reports whether its data begins with prefix, which fits into
// the buffer of r. Errors are as of ReadPkt.
func skipPkt(r *bufio.Reader, prefix string) (found bool, err error) {
	head, err := r.Peek(pktHead)
	if len(head) < pktHead {
		if len(head) > 0 && err == io.EOF {
			err = &PktError{Reason: fmt.Sprintf("it ends after %d bytes", len(head))}
		}
		return false, err
	}
	_, n, err := parsePktHead([pktHead]byte(head))
	if err != nil {
		return false, err
	}
	if n >= len(prefix) {
		line, _ := r.Peek(pktHead + len(prefix)) // Discard gives the error
		found = bytes.HasSuffix(line, []byte(prefix)) && len(line) == pktHead+len(prefix)
	}
	if got, err := r.Discard(pktHead + n); err == io.EOF {
		return false, &PktError{Reason: fmt.Sprintf("it ends after %d bytes of %d", got-pktHead, n)}
	} else if err != nil {
		return false, err
	}
	return found, nil
}

// parsePktHead reads the length; n is that of the data. Git also takes upper-case digits but sends none.
func parsePktHead(head [pktHead]byte) (kind PktKind, n int, err error) {
	for _, c := range head {
		switch {
		case '0' <= c && c <= '9':
			n = n<<4 | int(c-'0')
		case 'a' <= c && c <= 'f':
			n = n<<4 | int(c-'a'+10)
		default:
			return 0, 0, &PktError{Reason: fmt.Sprintf("length %q", head[:])}
		}
	}
	switch n {
	case 0:
		return PktFlush, 0, nil
	case 1:
		return PktDelim, 0, nil
	case 2:
		return PktEnd, 0, nil
	case 3:
		return 0, 0, &PktError{Reason: "length 3"}
	}
	if n -= pktHead; n > MaxPktData {
		return 0, 0, &PktError{Reason: fmt.Sprintf("%d bytes, at most %d are allowed", n, MaxPktData)}
	}
	return PktData, n, nil
}
