// Package kv is a small conditional key-value store on the quorum: the place
// for configuration, decisions, cursors and counters that several processes
// change and none may lose. It is not a database: keys are at most 1 KiB,
// values at most 1 MiB, and every write costs one agreement of the majority.
//
// # Use
//
//	store := kv.New(session)
//	rev, err := store.Put(ctx, "colour", []byte("blue"))
//	e, err := store.Get(ctx, "colour")
//	_, err = store.CompareAndSet(ctx, "colour", e.Revision, []byte("green"))
//	for b := range store.Watch(ctx, kv.WatchRequest{Prefix: "col", From: rev + 1}) {
//	    …
//	}
//
// [Store.Txn] changes several keys at once, [Store.List] reads by prefix in
// pages, [At] reads history, [Leased] ties a key to a session, [Fenced] makes
// a write conditional on a fencing token. A node that writes for others uses
// [NewFor] and [Store.For].
//
// # Promises
//
//   - Reads and writes are linearizable; a read marked [Stale] is one state
//     that the store had at the revision it returns.
//   - A write that goes through a session happens exactly once, however often
//     it had to be sent: the answer that was lost is found again, with the
//     result of the first time. One without a session and without a request id
//     is sent once, and an unknown outcome is reported as unknown.
//   - A [Leased] key goes in the same revision as its session.
//   - A write that is [Fenced] with a token lower than the highest ever used
//     for that resource changes nothing. Check, raising and write are one
//     transaction.
//   - A watch delivers every change from its start on, once and in order, the
//     changes of one revision together; or it says holdfast.ErrCompacted.
//
// # What you must do
//
//   - Give every call a context with a deadline: without a majority, calls
//     repeat themselves until it ends.
//   - When holdfast.OutcomeOf says Unknown, call [Store.Resolve], or write
//     again under a compare; do not guess.
//   - Resume a watch, after a crash of your own, with From one above the last
//     [Batch.Revision] you processed, and on holdfast.ErrCompacted list anew.
//   - Read the channel of a watch until it closes, or cancel its context.
//
// # When it goes wrong
//
//	holdfast.ErrConflict   the compare failed: read again, decide anew
//	holdfast.ErrNotFound   there is no such key (now, or at that revision)
//	holdfast.ErrFenced     a holder with a higher token was here: stop
//	holdfast.ErrLost       the session is gone, and its keys with it
//	holdfast.ErrCompacted  that revision is no longer in history; of a write:
//	                       it had been sent before, and its answer is gone
//	holdfast.ErrNoQuorum   no majority answered before the context ended
//	holdfast.ErrInvalid    a bound or a rule is broken; all faults are listed
//
// # Testing
//
// engine.NewMemory in a testing/synctest bubble. The package's own simulation
// runs many clients over engine.Faulty and checks their history against a
// register with porcupine; holdfast's lab does the same with real nodes.
package kv
