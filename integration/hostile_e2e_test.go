//go:build e2e

package integration

const (
	hostileMany    = 500
	hostileIdle    = 10_000
	hostileFew     = 16
	hostileRounds  = 25
	hostileRetries = 4
	hostileStrict  = true
)
