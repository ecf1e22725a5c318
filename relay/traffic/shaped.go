package traffic

import (
	"context"
	"io"
	"math"
	"net/http"
)

// shaped writes a response at the rates of a shaper. What the server buffers and what TLS and headers add is not counted.
//
// A part of a file goes on to the writer beneath in pieces, each an io.LimitedReader of the file itself: that is the one form
// in which package net lets the kernel send a part of a file.
type shaped struct {
	http.ResponseWriter
	shaper    *shaper
	ctx       context.Context //nolint:containedctx // a ResponseWriter's methods are given none
	client    string
	allowance *allowance
	credit    int64 // granted, not yet sent
	left      bool
}

// Unwrap is for http.ResponseController.
func (s *shaped) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// Flush sends what is buffered.
func (s *shaped) Flush() { s.FlushError() } //nolint:errcheck // http.Flusher has no error

// FlushError sends what is buffered.
func (s *shaped) FlushError() error { return http.NewResponseController(s.ResponseWriter).Flush() }

// Write writes p, and takes as long as the rates want.
func (s *shaped) Write(p []byte) (n int, err error) {
	for first := true; first || n < len(p); first = false {
		may, err := s.may(int64(len(p) - n))
		if err != nil {
			return n, err
		}
		m, err := s.ResponseWriter.Write(p[n : n+int(may)])
		n += m
		s.spend(int64(m))
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// ReadFrom writes what src gives, and takes as long as the rates want.
func (s *shaped) ReadFrom(src io.Reader) (n int64, err error) {
	into, ok := s.ResponseWriter.(io.ReaderFrom)
	if !ok {
		return copyThrough(s, src)
	}
	part, ok := src.(*io.LimitedReader)
	if !ok {
		part = &io.LimitedReader{R: src, N: math.MaxInt64}
	}
	for part.N > 0 {
		may, err := s.may(part.N)
		if err != nil {
			return n, err
		}
		piece := io.LimitedReader{R: part.R, N: may}
		m, err := into.ReadFrom(&piece)
		n += m
		s.spend(m)
		part.N -= may - piece.N
		if err != nil || m < may {
			return n, err
		}
	}
	return n, nil
}

// may waits until some of n bytes may be sent, and says how many.
func (s *shaped) may(n int64) (int64, error) {
	if s.credit == 0 && n > 0 {
		if err := s.shaper.take(s.ctx, s.client, s.allowance, s.shaper.grant); err != nil {
			return 0, err
		}
		s.credit = s.shaper.grant
	}
	return min(n, s.credit), nil
}

func (s *shaped) spend(n int64) {
	s.credit -= n
	s.shaper.sent.Add(n)
}

func (s *shaped) leave() {
	if s.left {
		return
	}
	s.left = true
	s.shaper.leave(s.client, s.allowance, s.credit)
	s.credit = 0
}
