// Package access gives commands the primitives, wherever they are: behind a
// node's API, or directly on an etcd cluster without any node.
//
// # Use
//
//	b, err := access.Open(ctx, access.Config{Endpoints: …})
//	defer b.Close(ctx)
//	held, err := b.Acquire(ctx, "jobs/nightly")
//
// # Promises
//
//   - Both ways give the same results and errors, and share everything: a lock
//     held through one is busy through the other when both use one store.
//   - The session that grants hang on is opened when it is first needed, and
//     ended by Close.
//
// # What you must do
//
// Close, also after an error, so that nothing is held for the rest of a TTL.
//
// # When it goes wrong
//
// Errors are those of the packages below.
//
// # Testing
//
// See cmd/holdfast, which runs the same scripts over both.
package access
