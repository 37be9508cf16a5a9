package membership_test

import (
	"context"
	"errors"
	"fmt"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/membership"
)

// open opens a session on a quorum in memory.
func open(ctx context.Context, e engine.Engine) *engine.Session {
	s, err := engine.OpenSession(ctx, e, engine.SessionConfig{})
	if err != nil {
		panic(err)
	}
	return s
}

// Two workers join; one leaves, the other's session ends without a word.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	e := engine.NewMemory(engine.MemoryConfig{})
	defer func() { _ = e.Close() }()
	one, two := open(ctx, e), open(ctx, e)

	ann, err := membership.New(one).Register(ctx, "workers", membership.Member{ID: "ann", Address: "10.0.0.1:9000"})
	if err != nil {
		panic(err)
	}
	changes := membership.NewFor(e, 0).Watch(ctx, "workers")
	for ev := range changes {
		if ev.Kind != membership.Synced {
			fmt.Println(ev.Kind, ev.Member.ID)
		}
		switch {
		case ev.Kind == membership.Synced: // ann has been told
			_, err := membership.New(two).Register(ctx, "workers", membership.Member{ID: "bob", Address: "10.0.0.2:9000"})
			if err != nil {
				panic(err)
			}
		case ev.Kind == membership.Joined && ev.Member.ID == "bob":
			_ = ann.Leave(ctx)
		case ev.Kind == membership.Left:
			_ = two.Close(ctx)
		case ev.Kind == membership.Lost:
			cancel()
		}
	}
	_ = one.Close(context.Background())
	// Output:
	// joined ann
	// joined bob
	// left ann
	// lost bob
}

func ExampleRegistry_Roster() {
	ctx := context.Background()
	e := engine.NewMemory(engine.MemoryConfig{})
	defer func() { _ = e.Close() }()
	s := open(ctx, e)
	defer func() { _ = s.Close(ctx) }()
	registry := membership.New(s)

	for _, id := range []string{"b", "a"} {
		_, err := registry.Register(ctx, "workers", membership.Member{
			ID: id, Address: id + ".example:9000", Metadata: map[string]string{"zone": "1"},
		})
		if err != nil {
			panic(err)
		}
	}
	roster, _ := registry.Roster(ctx, "workers")
	for _, m := range roster.Members {
		fmt.Println(m.ID, m.Address, m.Metadata["zone"], m.Session == s.ID())
	}
	groups, _ := registry.Groups(ctx, "")
	fmt.Println(groups)
	// Output:
	// a a.example:9000 1 true
	// b b.example:9000 1 true
	// [workers]
}

// An id belongs to one live session.
func ExampleRegistry_Register_busy() {
	ctx := context.Background()
	e := engine.NewMemory(engine.MemoryConfig{})
	defer func() { _ = e.Close() }()
	one, two := open(ctx, e), open(ctx, e)
	defer func() { _ = two.Close(ctx) }()
	me := membership.Member{ID: "shard-1", Address: "10.0.0.1:9000"}

	_, _ = membership.New(one).Register(ctx, "shards", me)
	_, err := membership.New(two).Register(ctx, "shards", me)
	fmt.Println(errors.Is(err, holdfast.ErrBusy))
	_ = one.Close(ctx)
	_, err = membership.New(two).Register(ctx, "shards", me)
	fmt.Println(err)
	// Output:
	// true
	// <nil>
}
