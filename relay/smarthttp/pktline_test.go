package smarthttp

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestPktLine(t *testing.T) {
	long := strings.Repeat("x", MaxPktData)
	for _, tc := range []struct {
		in   string
		want Pkt
		rest string
		err  string // a part of it
	}{
		{in: "0000", want: Pkt{Kind: PktFlush}},
		{in: "0001rest", want: Pkt{Kind: PktDelim}, rest: "rest"},
		{in: "0002", want: Pkt{Kind: PktEnd}},
		{in: "0004", want: Pkt{Data: []byte{}}},
		{in: "0006a\n0000", want: Pkt{Data: []byte("a\n")}, rest: "0000"},
		{in: "fff0" + long, want: Pkt{Data: []byte(long)}},
		{in: "fff1" + long + "x", err: "at most"},
		{in: "ffff" + long, err: "at most"},
		{in: "0003", err: "length 3"},
		{in: "000A123456", err: "length"},
		{in: "+006a\n", err: "length"},
		{in: "00 6a\n", err: "length"},
		{in: "-001", err: "length"},
		{in: "0x06", err: "length"},
		{in: "000", err: "ends after 3"},
		{in: "0006a", err: "ends after 1 bytes of 2"},
		{in: "0005", err: "ends after 0 bytes of 1"},
		{in: "", err: "EOF"},
	} {
		for name, read := range map[string]func() (Pkt, string, error){
			"CutPkt": func() (Pkt, string, error) {
				p, rest, err := CutPkt([]byte(tc.in))
				return p, string(rest), err
			},
			"ReadPkt": func() (Pkt, string, error) {
				r := strings.NewReader(tc.in)
				p, err := ReadPkt(r)
				rest, _ := io.ReadAll(r)
				return p, string(rest), err
			},
		} {
			p, rest, err := read()
			if tc.err != "" {
				var bad *PktError
				if err == nil || !strings.Contains(err.Error(), tc.err) || tc.in != "" && !errors.As(err, &bad) || tc.in == "" && err != io.EOF {
					t.Errorf("%s(%.20q): %v, want %q", name, tc.in, err, tc.err)
				}
				continue
			}
			if err != nil || p.Kind != tc.want.Kind || !bytes.Equal(p.Data, tc.want.Data) || rest != tc.rest {
				t.Errorf("%s(%.20q): %v, rest %.20q, %v", name, tc.in, p, rest, err)
			}
		}
	}
	if got := PktLine("a\n"); got != "0006a\n" || string(AppendPkt([]byte("x"), "a", "\n")) != "x"+got {
		t.Errorf("framed: %q", got)
	}
	if got := PktLine(long); string(AppendPkt(nil, long)) != got || got[:4] != "fff0" {
		t.Errorf("framed: %.10q", got)
	}
	if text := (Pkt{Data: []byte("a\n\n")}).Text(); string(text) != "a\n" {
		t.Errorf("text: %q", text)
	}
}

// FuzzPktLine: all readers agree, keep within the bytes they have, and what they take encodes to the same bytes.
func FuzzPktLine(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		const prefix = "want "
		r, skipped := bytes.NewReader(data), bufio.NewReaderSize(bytes.NewReader(data), 16) // the smallest
		for rest := data; ; {
			p, next, err := CutPkt(rest)
			q, readErr := ReadPkt(r)
			if (err == nil) != (readErr == nil) || (err == io.EOF) != (readErr == io.EOF) {
				t.Fatalf("CutPkt says %v, ReadPkt %v", err, readErr)
			}
			found, skipErr := skipPkt(skipped, prefix)
			if (err == nil) != (skipErr == nil) || (err == io.EOF) != (skipErr == io.EOF) || found != bytes.HasPrefix(p.Data, []byte(prefix)) {
				t.Fatalf("CutPkt says %v, skipPkt %v and %v", err, found, skipErr)
			}
			if err != nil {
				return
			}
			if p.Kind != q.Kind || !bytes.Equal(p.Data, q.Data) || r.Len() != len(next) {
				t.Fatalf("CutPkt %v and %d bytes, ReadPkt %v and %d", p, len(next), q, r.Len())
			}
			again := []string{"", "0000", "0001", "0002"}[p.Kind]
			if p.Kind == PktData {
				again = PktLine(string(p.Data))
			}
			if again != string(rest[:len(rest)-len(next)]) {
				t.Fatalf("%.50q encodes to %.50q", rest, again)
			}
			rest = next
		}
	})
}
