// Package holdfast holds the words that every part of Holdfast shares: the
// fencing [Token], the three-valued [Outcome] of a call, and the [Error] that
// carries both across packages and across the wire. It imports nothing but the
// standard library.
//
// # Use
//
//	err := store.Put(ctx, "colour", []byte("blue"))
//	switch holdfast.OutcomeOf(err) {
//	case holdfast.Applied:    // it happened
//	case holdfast.NotApplied: // it did not, and never will
//	case holdfast.Unknown:    // nobody can tell yet: resolve it, do not guess
//	}
//
// The primitives live in the packages lock, election, membership, kv and
// fence; they stand on package engine. Package client is the same over the
// network.
//
// # Promises
//
//   - A [Token] issued later for one name is greater than every token issued
//     earlier for that name, also across a restore from a backup.
//   - No error of Holdfast turns an unknown outcome into a known one.
//
// # What you must do
//
//   - Send the token with every effect on a shared resource, and let the
//     resource refuse a token lower than the highest it has seen (package
//     fence does so for SQL, HTTP and our own KV). A lock without this is an
//     optimisation, not mutual exclusion.
//   - After an [Unknown], resolve or repeat with the same request id.
//
// # When it goes wrong
//
// Decide on sentinels with errors.Is: [ErrBusy], [ErrLost], [ErrFenced],
// [ErrConflict], [ErrNoQuorum], [ErrClosed] and the few others in this
// package; each says what to do.
//
// # Testing
//
// engine.NewMemory inside testing/synctest gives every primitive a
// deterministic quorum in the test's own process.
package holdfast
