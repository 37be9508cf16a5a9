// Package fence is the resource's side of a fenced lock: it refuses the
// effects of a holder that was replaced. There is a guard for databases behind
// database/sql ([Postgres], [SQLite]), one for HTTP servers ([Handler]), and
// package kv has one for our own store (kv.Fenced).
//
// # Use
//
// Once per database, and then first in each transaction that acts for a lock:
//
//	err := fence.Postgres.Setup(ctx, db)
//	…
//	tx, err := db.BeginTx(ctx, nil)
//	defer tx.Rollback()
//	if err := fence.Postgres.Check(ctx, tx, "ledger", held.Token()); err != nil {
//		return err // errors.Is(err, holdfast.ErrFenced): replaced, stop
//	}
//	… read and write …
//	return tx.Commit()
//
// Before a service that is itself the resource:
//
//	mux.Handle("/volume/", fence.Handler(volume, fence.HTTP{}))
//
// A table whose rows are guarded one by one needs no helper table. Give it a
// column "fence bigint not null default 0" and write
//
//	UPDATE volume SET data = $1, fence = $2 WHERE id = $3 AND fence <= $2
//
// No row affected means that the token is too old, or that there is no such
// row. This statement is right at every isolation level. It guards only
// updates of rows that are there, and what the caller read before only if that
// is read again in the same transaction, after it.
//
// # Promises
//
//   - The effects of one resource never go back in token: when an effect under
//     token t is committed, none under a lower token is committed later.
//   - What a transaction reads after its Check contains every effect of lower
//     tokens; none is added later.
//   - A transaction that is rolled back leaves no trace, its token neither. A
//     database that loses commits, in a failover or by a restore, loses a token
//     only together with the effects under it.
//   - This holds at every isolation level of Postgres and in every journal and
//     transaction mode of SQLite; some of them fail more often with
//     holdfast.ErrConflict.
//   - The same token may act as often as it likes: a guard orders holders, it
//     does not count requests.
//
// # What you must do
//
//   - Check first, then read. A guard cannot mend what was read before it.
//   - A holder that reads in one transaction and writes in a later one checks
//     in both. The first shuts the predecessors out: until a resource has seen
//     the new token, an older one may still act, and rightly so.
//   - Commit only when Check returned nil.
//   - Use one name of a resource for one lock. Tokens of different locks must
//     not meet.
//   - Let only those at the guard who may act: a token is a number, not a
//     proof. Who sends a very high one shuts everybody else out.
//
// # When it goes wrong
//
//   - holdfast.ErrFenced: somebody else took over. Stop; do not repeat. The
//     chain holds a [StaleError] with the highest token.
//   - holdfast.ErrConflict: the database gave way to another transaction
//     (serialization failure, deadlock, database is locked). Roll back and run
//     the transaction again.
//   - holdfast.ErrInvalid: no token, or no resource. A defect of the caller.
//   - Anything else: the database's own error. Roll back; nothing happened.
//   - The commit itself may fail with an unknown outcome, as any commit may.
//     Read under the same token to see which it was: after Check nobody older
//     can have changed the answer.
//
// # Testing
//
// The guards are checked against a model, and by transactions that run
// concurrently on a real Postgres at each isolation level and on SQLite in
// each mode.
//
// Source: Kleppmann, "How to do distributed locking" (2016).
package fence
