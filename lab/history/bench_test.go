package history_test

import (
	"bytes"
	"fmt"
	"io"
	"testing"
	"time"

	"holdfast.dev/lab/history"
)

// manyOps is a register's history of n operations by 50 processes.
func manyOps(n int) history.History {
	h := make(history.History, n)
	for i := range h {
		call := i / 100 * 50 // fifty invocations, fifty completions
		op := history.Op{
			Index: i, Time: time.Duration(i) * 137 * time.Microsecond, Process: i % 50, Type: history.Invoke,
			F: "write", Key: fmt.Sprint("r", i%50/10), Value: call + i%50, Node: "n1",
		}
		if i%100 >= 50 {
			op.Type = history.OK
		}
		h[i] = op
	}
	return h
}

func BenchmarkRead(b *testing.B) {
	for _, format := range []string{"json", "edn"} {
		b.Run(format, func(b *testing.B) {
			var buf bytes.Buffer
			write := history.Write
			if format == "edn" {
				write = history.WriteEDN
			}
			const n = 1_000_000
			if err := write(&buf, manyOps(n)); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(buf.Len()))
			b.ReportAllocs()
			for b.Loop() {
				h, err := history.ReadAny(bytes.NewReader(buf.Bytes()))
				if err != nil || len(h) != n {
					b.Fatal(len(h), err)
				}
			}
			b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds(), "ops/s")
		})
	}
}

func BenchmarkAppend(b *testing.B) {
	w := history.NewWriter(io.Discard)
	h := manyOps(1000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		w.Append(h[i%len(h)])
	}
}

func BenchmarkCalls(b *testing.B) {
	h := manyOps(1_000_000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Calls(); err != nil {
			b.Fatal(err)
		}
	}
}
