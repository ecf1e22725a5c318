package seen

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// What recording costs a request.
func BenchmarkRecord(b *testing.B) {
	db, err := Open(filepath.Join(b.TempDir(), FileName), Options{})
	if err != nil {
		b.Fatal(err)
	}
	spare := make([]Event, 0, db.options.Queue)
	e := manifest("amr-7", "ghcr.io/acme/app", "v1", time.Now())
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%db.options.Queue == 0 {
			spare = db.take(spare)
		}
		db.Record(e)
	}
}

// What adding up an event costs after that, for 500 robots that poll.
func BenchmarkAdd(b *testing.B) {
	l := newLedger()
	events := make([]Event, 500)
	for i := range events {
		events[i] = manifest(fmt.Sprint("robot-", i), "ghcr.io/acme/app", "v1", start)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		l.add(&events[i%len(events)])
	}
}

// What the file costs: a transaction in which each of 500 robots began a pull of 10 blobs, and one in which nobody did
// more than look.
func BenchmarkTransaction(b *testing.B) {
	for _, kind := range []string{KindManifest, "look"} {
		b.Run(kind, func(b *testing.B) {
			db, err := Open(filepath.Join(b.TempDir(), FileName), Options{MaxPulls: 20_000})
			if err != nil {
				b.Fatal(err)
			}
			w := writer{db: db}
			defer w.close()
			l := newLedger()
			n := 0
			for b.Loop() {
				for i := range 500 {
					e := manifest(fmt.Sprint("robot-", i), fmt.Sprint("ghcr.io/acme/app-", n%100), "v1", start.Add(time.Duration(n)*time.Hour))
					e.Kind = kind
					l.add(&e)
					for range 10 {
						e.Kind = KindBlob
						l.add(&e)
					}
				}
				n++
				w.write(context.Background(), l.take())
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n)/500, "ns/row")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n)/5500, "ns/event")
			if s := db.Stats(); s.Recorded != uint64(n)*5500 {
				b.Fatalf("%d recorded, want %d", s.Recorded, n*5500)
			}
		})
	}
}
