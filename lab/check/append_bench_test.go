package check_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"holdfast.dev/lab/check"
)

func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			h := recorded(rotated(rand.New(rand.NewPCG(1, 1)), n, 10))
			b.ResetTimer()
			for range b.N {
				if r := (check.Append{}).Check(b.Context(), h); r.Verdict != check.Valid {
					b.Fatal(r.Verdict, r.Summary, r.Witness)
				}
			}
			b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "txns/s")
		})
	}
}
