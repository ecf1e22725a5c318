package isolated

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func TestLimitBufferRefusesTheByteTooMuch(t *testing.T) {
	b := limitBuffer{limit: 100 << 10}
	if _, err := io.Copy(&b, strings.NewReader(strings.Repeat("x", 100<<10))); err != nil || b.exceeded {
		t.Fatalf("at the limit: %v", err)
	}
	if _, err := io.Copy(&b, strings.NewReader("x")); !errors.Is(err, io.ErrShortBuffer) || !b.exceeded || b.kept.Len() != 100<<10 {
		t.Errorf("beyond it: %v, %d bytes", err, b.kept.Len())
	}
}
