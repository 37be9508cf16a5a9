// Package engine is the quorum that Holdfast's primitives stand on: a
// replicated, ordered key-value store with guarded transactions, watches and
// leases. It writes no consensus of its own; the implementations are
//
//   - [Memory]: one process, deterministic, for tests inside testing/synctest;
//   - engine/embed: an etcd server in this process, alone or in a cluster;
//   - engine/etcd: an etcd cluster that is there already.
//
// engine/enginetest is the suite that all of them pass.
//
// # Use
//
//	res, err := e.Txn(ctx, engine.Txn{
//	    If:   []engine.Compare{engine.Missing("colour")},
//	    Then: []engine.Op{engine.Put("colour", []byte("blue"))},
//	    Else: []engine.Op{engine.Get("colour")},
//	})
//
// [Coalesce] wraps an engine with group commit. [OpenSession] opens a session:
// one leased key, renewed in the background, that everything a process holds
// refers to. [Session.Submit] resends guarded transactions whose outcome is
// unknown; [Once] does so for transactions that may not run twice.
//
// # Promises
//
//   - Txn is atomic and strictly serializable. All compares, those of nested
//     transactions too, see the state before the transaction; all its writes
//     share one revision.
//   - Range is linearizable unless it asks for Stale.
//   - A watch delivers every event from its start revision on, once, in order,
//     and those of one revision together; when history is gone it says
//     holdfast.ErrCompacted and ends.
//   - A lease is not expired before its TTL has passed since its last renewal
//     was received, and its keys go with it in one revision.
//   - Every error says whether the change happened: see holdfast.OutcomeOf.
//
// # What you must do
//
//   - Read the watch's channel until it closes, or cancel its context.
//   - Not take a renewal's TTL as counted from its receipt: count from when it
//     was sent. [Session] does.
//
// # When it goes wrong
//
// Without a majority, Txn, linearizable Range and lease calls end with
// holdfast.ErrNoQuorum or the context's error; the outcome of a Txn is then
// unknown. Watches fall silent; ask for progress to notice.
//
// # Testing
//
// [Memory] in a synctest bubble; [Faulty] around any engine loses, delays,
// repeats and reorders requests from a seed.
package engine
