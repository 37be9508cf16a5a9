// Package lock gives one holder at a time — or several, if they agree to share
// — the right to act, and a token that proves it.
//
// # Use
//
//	locks := lock.New(session, lock.Config{})
//	held, err := locks.Acquire(ctx, "jobs/nightly")
//	if err != nil {
//	    return err
//	}
//	defer held.Release(context.WithoutCancel(ctx))
//	err = run(held.Context(), held.Token()) // stops when the lock is lost
//
// Shared and Permits make read locks and semaphores of the same names;
// NoWait and WaitAtMost bound the wait; AcquireAll takes several names in an
// order that cannot deadlock.
//
// # Promises
//
//   - Among grants that exclude one another, at most one is current at any
//     revision of the engine.
//   - Tokens of one name only grow, also across restores.
//   - Held.Context ends before the quorum can give the lock to another, as long
//     as the process runs; after a pause it ends as soon as the process does.
//   - Release never frees somebody else's grant, however late it arrives.
//   - A wait ends when its session dies. First come, first served; one process
//     may hand over among its own goroutines 16 times in a row before others.
//   - A change of the quorum's leader loses no lock.
//
// # What you must do
//
//   - Send Held.Token with every effect, and let the resource refuse older ones
//     (package fence). Without that a paused holder can still act after it lost
//     the lock; Delay then at least makes the next holder wait a while.
//   - Stop when Held.Context is done.
//   - Not ask for a name below the Held.Context that holds it: that is refused.
//
// # When it goes wrong
//
//	no quorum        Acquire waits until ctx ends; a Held lives until its
//	                 session's deadline passes
//	holder killed    the next one follows after the session's TTL
//	holder paused    as if killed; on waking its context ends, and the resource
//	                 refuses its token
//	clocks jump      nothing: no decision looks at the time of day
//	unknown outcome  of an acquisition is settled by the session before anything
//	                 else; a late one is given back
//
// # Testing
//
// engine.NewMemory inside testing/synctest; the simulation in this package.
package lock
