package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ByteRate is a number of bytes a second as a flag: 500k, 10M, 10MiB.
type ByteRate int64

// rateUnits are powers of 1000, and with an i of 1024. The letter's case does not matter, a B behind it neither.
var rateUnits = map[string]int64{
	"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30,
}

// String writes it for --help.
func (r *ByteRate) String() string { return strconv.FormatInt(int64(*r), 10) }

// Type is the name of the value in --help.
func (r *ByteRate) Type() string { return "rate" }

// Set parses it.
func (r *ByteRate) Set(text string) error {
	digits := len(text) - len(strings.TrimLeft(text, "0123456789"))
	n, err := strconv.ParseInt(text[:digits], 10, 64)
	unit, ok := rateUnits[strings.TrimSuffix(strings.ToLower(text[digits:]), "b")]
	if err != nil || !ok || n > math.MaxInt64/unit {
		return fmt.Errorf("%q is no rate; want a number of bytes a second with k, M, G, KiB, MiB or GiB behind it, like 10M", text)
	}
	*r = ByteRate(n * unit)
	return nil
}
