package main

import (
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// watchEvery is how often the use of memory is looked at. A template fills a gigabyte in about a second.
const watchEvery = 20 * time.Millisecond

// limitMemory calls exceeded, which does not come back, when a template takes more memory than is allowed. Where the
// system can, it ends the process when that was too late. The collector works harder from three quarters of it on.
func limitMemory(bytes int64, exceeded func(bytes uint64)) error {
	if bytes <= 0 {
		return nil
	}
	debug.SetMemoryLimit(bytes / 4 * 3)
	go func() { // for as long as the process lives
		sample := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
		for range time.Tick(watchEvery) {
			metrics.Read(sample)
			if used := sample[0].Value.Uint64() - sample[1].Value.Uint64(); used > uint64(bytes)/8*7 {
				exceeded(uint64(bytes))
			}
		}
	}()
	return limitData(bytes)
}
