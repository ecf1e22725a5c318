//go:build !e2e

package integration

// How much of the repeated suites `make test` runs; `make e2e` runs them in full.
const (
	crashRuns    = 6
	loadClients  = 12
	loadSwitches = 12
)
