//go:build e2e

package integration

const (
	crashRuns    = 50
	loadClients  = 100
	loadSwitches = 100
)
