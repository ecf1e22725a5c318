//go:build !e2e

package integration

// relayDeaths are the objects at whose writes an import dies in TestTwoRelaysOneDies. Each costs the time that a lease
// takes to run out.
var relayDeaths = []string{"site7/blobs/", "site7/site/active.json"}
