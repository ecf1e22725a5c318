package cli

import "testing"

func TestByteRate(t *testing.T) {
	for text, want := range map[string]ByteRate{
		"0": 0, "1": 1, "500k": 500_000, "10M": 10_000_000, "10m": 10_000_000, "10MB": 10_000_000, "2G": 2_000_000_000,
		"1Ki": 1024, "1KiB": 1024, "10MiB": 10 << 20, "3gib": 3 << 30, "7B": 7, "9223372036854775807": 1<<63 - 1,
	} {
		var r ByteRate
		if err := r.Set(text); err != nil || r != want {
			t.Errorf("%s: %d, %v, want %d", text, r, err, want)
		}
	}
	for _, text := range []string{"", "M", "-1", "+1", "1.5M", "10 M", "10X", "10Mbit", "10MBB", "9223372036854775808", "9223372036854776k", "10M/s"} {
		r := ByteRate(5)
		if err := r.Set(text); err == nil || r != 5 {
			t.Errorf("%q: %d, %v", text, r, err)
		}
	}
}
