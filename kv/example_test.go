package kv_test

import (
	"context"
	"errors"
	"fmt"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/kv"
)

// open is a store on a quorum in memory, with a session of its own.
func open(ctx context.Context) (*kv.Store, func()) {
	e := engine.NewMemory(engine.MemoryConfig{})
	s, err := engine.OpenSession(ctx, e, engine.SessionConfig{Name: "example"})
	if err != nil {
		panic(err)
	}
	return kv.New(s), func() {
		_ = s.Close(ctx)
		_ = e.Close()
	}
}

func Example() {
	ctx := context.Background()
	store, closeAll := open(ctx)
	defer closeAll()

	if _, err := store.Put(ctx, "colour", []byte("blue")); err != nil {
		panic(err)
	}
	e, err := store.Get(ctx, "colour")
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s, written %d time(s)\n", e.Value, e.Version)

	_, err = store.Get(ctx, "shape")
	fmt.Println(err, errors.Is(err, holdfast.ErrNotFound))
	// Output:
	// blue, written 1 time(s)
	// kv shape: get: not found true
}

// Two writers read the same value; only the first may replace it.
func ExampleStore_CompareAndSet() {
	ctx := context.Background()
	store, closeAll := open(ctx)
	defer closeAll()

	read, _ := store.Put(ctx, "stock", []byte("3"))
	_, err := store.CompareAndSet(ctx, "stock", read, []byte("2"))
	fmt.Println("first:", err)
	_, err = store.CompareAndSet(ctx, "stock", read, []byte("2"))
	fmt.Println("second:", err, holdfast.OutcomeOf(err))
	// Output:
	// first: <nil>
	// second: kv stock: compare and set: conflict not applied
}

// A transfer happens in both places or in neither.
func ExampleStore_Txn() {
	ctx := context.Background()
	store, closeAll := open(ctx)
	defer closeAll()

	from, _ := store.Put(ctx, "account/ann", []byte("10"))
	to, _ := store.Put(ctx, "account/bob", []byte("0"))
	res, err := store.Txn(ctx, kv.Txn{
		If: []kv.Cond{kv.RevisionIs("account/ann", from), kv.RevisionIs("account/bob", to)},
		Then: []kv.Op{
			kv.Put("account/ann", []byte("7")),
			kv.Put("account/bob", []byte("3")),
		},
		Else: []kv.Op{kv.Get("account/ann"), kv.Get("account/bob")},
	})
	fmt.Println(res.Succeeded, err)

	page, _ := store.List(ctx, "account/")
	for _, e := range page.Entries {
		fmt.Printf("%s %s, same revision: %v\n", e.Key, e.Value, e.Revision == res.Revision)
	}
	// Output:
	// true <nil>
	// account/ann 7, same revision: true
	// account/bob 3, same revision: true
}

// A holder that was replaced cannot write any more.
func ExampleFenced() {
	ctx := context.Background()
	store, closeAll := open(ctx)
	defer closeAll()

	older, newer := holdfast.NewToken(1, 33), holdfast.NewToken(1, 34)
	_, err := store.Put(ctx, "report", []byte("by the new holder"), kv.Fenced("jobs/report", newer))
	fmt.Println(err)
	_, err = store.Put(ctx, "report", []byte("by the old one"), kv.Fenced("jobs/report", older))
	fmt.Println(errors.Is(err, holdfast.ErrFenced), holdfast.OutcomeOf(err))
	// Output:
	// <nil>
	// true not applied
}

// A key that goes with the session of its writer.
func ExampleLeased() {
	ctx := context.Background()
	e := engine.NewMemory(engine.MemoryConfig{})
	defer func() { _ = e.Close() }()
	writer, err := engine.OpenSession(ctx, e, engine.SessionConfig{})
	if err != nil {
		panic(err)
	}
	if _, err := kv.New(writer).Put(ctx, "here", []byte("I am"), kv.Leased()); err != nil {
		panic(err)
	}
	reader := kv.NewFor(e, 0)
	entry, err := reader.Get(ctx, "here")
	fmt.Println(entry.Session == writer.ID(), err)

	_ = writer.Close(ctx)
	_, err = reader.Get(ctx, "here")
	fmt.Println(err)
	// Output:
	// true <nil>
	// kv here: get: not found
}

// A reader lists, and then follows from exactly there.
func ExampleStore_Watch() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	store, closeAll := open(ctx)
	defer closeAll()
	_, _ = store.Put(ctx, "flag/a", []byte("on"))

	page, _ := store.List(ctx, "flag/")
	changes := store.Watch(ctx, kv.WatchRequest{Prefix: "flag/", From: page.Revision + 1, Prev: true})
	_, _ = store.Put(ctx, "flag/b", []byte("on"))
	_, _ = store.Delete(ctx, "flag/a")
	for n := 0; n < 2; {
		batch := <-changes
		for _, ev := range batch.Events {
			n++
			if ev.Deleted {
				fmt.Printf("%s is gone, it was %s\n", ev.Entry.Key, ev.Prev.Value)
			} else {
				fmt.Printf("%s is %s\n", ev.Entry.Key, ev.Entry.Value)
			}
		}
	}
	cancel()
	for range changes {
		// until it is closed
	}
	// Output:
	// flag/b is on
	// flag/a is gone, it was on
}
