package client_test

import (
	"context"
	"fmt"

	"holdfast.dev/client"
	"holdfast.dev/engine"
	"holdfast.dev/internal/server"
	"holdfast.dev/kv"
)

// node1 starts a node for an example and gives its URL.
func node1(ctx context.Context) (url string, stop func()) {
	e := engine.NewMemory(engine.MemoryConfig{})
	s, err := server.Start(ctx, server.Config{Engine: e, Listen: "127.0.0.1:0"})
	if err != nil {
		panic(err)
	}
	return s.URL(), func() {
		_ = s.Shutdown(ctx)
		_ = e.Close()
	}
}

// A lock over the network is the same *lock.Held as in the library.
func Example() {
	ctx := context.Background()
	url, stop := node1(ctx)
	defer stop()

	c, err := client.Dial(ctx, client.Config{Endpoints: []string{url}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	s, err := c.OpenSession(ctx, engine.SessionConfig{Name: "worker-7"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Close(ctx)

	held, err := s.Acquire(ctx, "jobs/nightly")
	if err != nil {
		fmt.Println(err)
		return
	}
	// The token goes with every effect; here the effect is a key.
	_, err = s.KV().Put(held.Context(), "result", []byte("42"), kv.Fenced("jobs/nightly", held.Token()))
	fmt.Println("written:", err)
	fmt.Println("released:", held.Release(ctx))
	// Output:
	// written: <nil>
	// released: <nil>
}

// A watch goes on where it stood, at whichever node serves.
func ExampleKV_Watch() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	url, stop := node1(ctx)
	defer stop()

	c, err := client.Dial(ctx, client.Config{Endpoints: []string{url}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	revision, err := c.KV().Put(ctx, "config/colour", []byte("blue"))
	if err != nil {
		fmt.Println(err)
		return
	}
	batch := <-c.KV().Watch(ctx, kv.WatchRequest{Prefix: "config/", From: revision})
	for _, ev := range batch.Events {
		fmt.Printf("%s is %s\n", ev.Entry.Key, ev.Entry.Value)
	}
	// Output: config/colour is blue
}
