package trust_test

import (
	"testing"

	"github.com/plimsoll/plimsoll/attest/trust"
)

// BenchmarkUpdate is what a relay does once for each medium: here roots 1 and 2, and two channels.
func BenchmarkUpdate(b *testing.B) {
	files := golden(b)
	state := pin(b, files["1.root.json"])
	for b.Loop() {
		if _, _, err := trust.Update(state, files, start); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCatchUp walks all versions of the root that can travel.
func BenchmarkCatchUp(b *testing.B) {
	v := newVendor(b)
	for range trust.MaxRoots - 1 {
		v.rotate(nil)
	}
	files := v.publish()
	state := pin(b, files["1.root.json"])
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := trust.Update(state, files, start); err != nil {
			b.Fatal(err)
		}
	}
}
