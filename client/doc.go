// Package client uses Holdfast over the network: sessions, locks, elections,
// membership and keys, at whichever of several nodes serves.
//
// # Use
//
//	c, err := client.Dial(ctx, client.Config{Endpoints: []string{"http://10.0.0.1:7450", "http://10.0.0.2:7450"}})
//	defer c.Close()
//	s, err := c.OpenSession(ctx, engine.SessionConfig{Name: "worker-7"})
//	defer s.Close(context.WithoutCancel(ctx))
//	held, err := s.Acquire(ctx, "jobs/nightly")
//	defer held.Release(context.WithoutCancel(ctx))
//	err = run(held.Context(), held.Token()) // stops when the lock is lost
//
// What is held is the same *lock.Held and *election.Leadership as in the
// library, with the same promises.
//
// # Promises
//
//   - What is held hangs on the session, and a session belongs to no node: it
//     survives the crash of any of them.
//   - A call goes to another node when the one in use does not answer within an
//     attempt, or says that it cannot serve. It is repeated only when that is
//     safe: reads, and what nodes recognise as a repeat. Changes of the cluster
//     itself are sent twice only when the first surely arrived nowhere.
//   - A node that is alive but cut off from the majority is noticed by probes
//     that only a serving node can answer; waits and watches then go on at
//     another node. Watches of keys miss nothing and repeat nothing.
//   - When Acquire or Campaign returns an error, nothing stays held: what may
//     have been granted is given back in the background.
//   - Every error says whether the change happened: see holdfast.OutcomeOf.
//
// # What you must do
//
//   - Give every call a context with a deadline, or accept that it tries until
//     there is a majority again.
//   - Send the token with every effect, and stop when a Held's context ends.
//   - Close sessions, then the client. Read watches until they close.
//
// # When it goes wrong
//
//	no node answers     ErrNoQuorum when the context ends; Dial says of each
//	                    endpoint why
//	majority is gone    the same; what is held stays so until the session's
//	                    deadline passes
//	outcome unknown     KV.Resolve settles a write of a session for good
//	session lost        everything that hung on it ends with ErrLost
//
// # Testing
//
// Dial a server on engine.Memory and port 0 of loopback.
package client
