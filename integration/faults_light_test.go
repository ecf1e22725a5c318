//go:build !faults

package integration

// A fixed sample, for every run of the tests.
const (
	faultPoints     = 2 // of each step and kind
	powerCutPoints  = 8 // of each step
	secondCutPoints = 1 // of each step, while it is repeated after a first one
	killedCutPoints = 2 // of each step, while or after it is repeated by another process than one that was killed; two cuts each
	faultSeed       = 1 // the same each time
)
