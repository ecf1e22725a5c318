//go:build !faults

package integration

// A fixed sample, for every run of the tests.
const (
	faultPoints     = 2 // of each step and kind
	powerCutPoints  = 8 // of each step
	secondCutPoints = 1 // of each step, while it is repeated after a first one
	faultSeed       = 1 // the same each time
)
