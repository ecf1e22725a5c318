//go:build !e2e

package integration

// How hard the attacks are in `make test`; `make e2e` does them in full, and holds the relay to the time that good
// clients take.
const (
	hostileMany    = 50
	hostileIdle    = 300
	hostileFew     = 2
	hostileRounds  = 2
	hostileRetries = 0
	hostileStrict  = false
)
