package main

import (
	"errors"
	"fmt"
	"testing"

	"github.com/plimsoll/plimsoll/attest/receipt"
	"github.com/plimsoll/plimsoll/cmd/internal/cli"
)

func TestReceiptExitCodes(t *testing.T) {
	for _, c := range []struct {
		want int
		err  error
	}{
		{cli.ExitDenied, &receipt.DeniedError{Claimed: "ab"}},
		{cli.ExitDamaged, &receipt.FormatError{Reason: "cut"}},
	} {
		code, hint, ok := explainReceipt(fmt.Errorf("plant-7.receipt: %w", c.err))
		if !ok || code != c.want || hint == "" {
			t.Errorf("%T: code %d, hint %q, known %v; want code %d", c.err, code, hint, ok, c.want)
		}
	}
	if _, _, ok := explainReceipt(errors.New("anything else")); ok {
		t.Error("an unknown error was explained")
	}
}
