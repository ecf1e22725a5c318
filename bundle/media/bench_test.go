package media

import (
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/plimsoll/plimsoll/internal/testbundle"
)

const benchSize = 256 << 20

// BenchmarkCopy compares a copy of a bundle with one layer of 256 MiB with what one would do by hand: cp, sync and
// sha256sum of that layer. The metric x-by-hand is the ratio of the two times, best of all rounds; below 1 is faster.
func BenchmarkCopy(b *testing.B) {
	padding := make([]byte, benchSize)
	if _, err := io.ReadFull(rand.NewChaCha8([32]byte{1}), padding); err != nil {
		b.Fatal(err)
	}
	bundle, from := written(b, testbundle.Options{Padding: padding})
	var layer string
	for _, blob := range bundle.Blobs {
		if blob.Size == benchSize {
			layer = filepath.Join(from, blobPath(blob.Digest))
		}
	}
	bundle, padding = nil, nil //nolint:ineffassign,wastedassign // so that it does not count as memory of the copy
	for name, to := range map[string]string{"folder-to-folder": "out", "folder-to-tar": "out.tar"} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(benchSize)
			b.ReportAllocs()
			best, byHand := time.Duration(1<<62), time.Duration(1<<62)
			for b.Loop() {
				dir := b.TempDir()
				start := time.Now()
				if err := carry(b.Context(), b, from, filepath.Join(dir, to)); err != nil {
					b.Fatal(err)
				}
				best = min(best, time.Since(start))
				b.StopTimer()
				start = time.Now()
				if err := copyByHand(layer, filepath.Join(dir, "by-hand")); err != nil {
					b.Fatal(err)
				}
				byHand = min(byHand, time.Since(start))
				if err := os.RemoveAll(dir); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(best)/float64(byHand), "x-by-hand")
		})
	}
}

func copyByHand(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return errors.Join(err, in.Close())
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Sync()); err == nil {
		_, err = out.Seek(0, io.SeekStart)
	}
	if err == nil {
		_, err = io.Copy(sha256.New(), out)
	}
	return errors.Join(err, in.Close(), out.Close())
}
