//go:build e2e

package integration

// How many random lives of a relay are compared with the model, and how long each is.
const (
	modelRuns  = 60
	modelSteps = 200
)
