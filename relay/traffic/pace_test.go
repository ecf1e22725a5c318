package traffic

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestPace: what clients send is taken at the rate, in equal shares whatever number of requests a client has, and whole.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPace(1 << 20)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		read := func(client string, requests int) *[]int64 {
			got := make([]int64, requests)
			for i := range got {
				wg.Go(func() {
					in, leave := p.Reader(ctx, client, endless{})
					defer leave()
					var err error
					if got[i], err = io.Copy(io.Discard, in); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("it ended with %v", err)
					}
				})
			}
			return &got
		}
		one, many := read("one", 1), read("many", 16)
		wg.Wait()
		within(t, "all", float64(sum(one, many)), 10<<20)
		within(t, "one", float64(sum(one)), 5<<20)

		want := strings.Repeat("abc", 100_000)
		in, leave := p.Reader(t.Context(), "one", strings.NewReader(want))
		var got bytes.Buffer
		if _, err := io.Copy(&got, in); err != nil || got.String() != want {
			t.Errorf("%d bytes of %d arrived: %v", got.Len(), len(want), err)
		}
		leave()
	})
}
