// Package etcd knows how etcd is started and how its clients talk to it.
//
// # Use
//
// Name "etcd" as the system of a scenario. Every node is a member. Workloads:
// register, cas, kv, set, counter, queue, unique-ids, append, bank, watch, idempotent,
// lock, election. Options:
//
//	binary          the program; default etcd, from PATH
//	snapshot-count  entries of the log between snapshots; default 100, so that there are some
//	heartbeat       between heartbeats of the leader; default 100ms
//	election        without one before a member stands for election; default 1s
//	pre-vote        ask before standing; default false
//	fsync           false: --unsafe-no-fsync
//	flags           further flags of the server, apart by spaces
//	timeout         for one request; default 1s
//	wait            for a lock, or to lead; default 5s
//	ttl             of the sessions of lock and election; default 2s
//	require-leader  let a member that knows of no leader refuse at once; default true
//	keys            false: idempotent forgets its requests, and repeats effects
//	reads           linearizable (default), or serializable: what the member has
//
// # Promises
//
// A client sends every request once, to its own member. Exception: lock and
// election use etcd's recipes on etcd's own client, as programs do, with that
// member as the only endpoint; that client repeats what is safe to repeat.
//
// Fail means that the request never left, or that etcd said that it refused it
// before executing it; a transaction whose comparisons did not hold is a Fail.
// Reads that did not succeed are Fail, because they had no effect. A watch that
// broke is OK with the events that it had delivered.
//
// The token of a lock is the revision of the answer that granted it
// (Mutex.Header); that of a leader the revision that created its key.
//
// # What you must do
//
// Give clients of lock and election contexts that outlive the option wait: giving
// up takes up to a second more.
//
// # When it goes wrong
//
// Setup fails with the last lines of the server's log. Primaries has every member
// that takes itself for the leader, and fails when no member answers.
//
// # Testing
//
// The tests run three members on loopback.
package etcd
