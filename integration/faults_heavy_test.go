//go:build faults

package integration

// Every change of every step, and power cuts at random.
const (
	faultPoints     = 1 << 20 // of each step and kind: all
	powerCutPoints  = 260     // of each step
	secondCutPoints = 40      // of each step, while it is repeated after a first one
	killedCutPoints = 25      // of each step, while or after it is repeated by another process than one that was killed; two cuts each
	faultSeed       = 0       // another one each time
)
