package engine_test

import (
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
)

func TestMemory_LeaseInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := engine.NewMemory(engine.MemoryConfig{})
		defer m.Close()
		ctx := t.Context()
		w := m.Watch(ctx, engine.WatchRequest{Key: "a", End: "z", Prev: true})
		if _, err := m.Grant(ctx, 7, 10*time.Second); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Txn(ctx, engine.Txn{Then: []engine.Op{engine.PutLeased("b", nil, 7), engine.PutLeased("c", nil, 7)}}); err != nil {
			t.Fatal(err)
		}
		if b := <-w; len(b.Events) != 2 {
			t.Fatalf("got %+v", b)
		}
		start := time.Now()
		if b := <-w; len(b.Events) != 2 || b.Events[0].Prev == nil || time.Since(start) != 10*time.Second {
			t.Fatalf("got %+v after %v", b, time.Since(start))
		}
		if _, err := m.Renew(ctx, 7); holdfast.CodeOf(err) != holdfast.CodeNotFound {
			t.Fatal(err)
		}
	})
}

func BenchmarkMemory_Put(b *testing.B) {
	m := engine.NewMemory(engine.MemoryConfig{})
	defer m.Close()
	ctx := b.Context()
	keys := make([]string, 1024)
	for i := range keys {
		keys[i] = "key/" + string(rune('a'+i%26)) + string(rune('0'+i/26))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		k := keys[i%len(keys)]
		if _, err := m.Txn(ctx, engine.Txn{If: []engine.Compare{engine.Missing("never")}, Then: []engine.Op{engine.Put(k, []byte("v"))}}); err != nil {
			b.Fatal(err)
		}
	}
}
