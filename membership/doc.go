// Package membership keeps rosters: who is in a group now, at what address,
// and who has gone, with a difference between those who left and those who
// were lost.
//
// # Use
//
//	registry := membership.New(session)
//	me, err := registry.Register(ctx, "workers", membership.Member{Address: "10.0.0.7:9000"})
//	defer me.Leave(ctx)
//	for ev := range registry.Watch(ctx, "workers") {
//	    switch ev.Kind {
//	    case membership.Joined: …
//	    }
//	}
//
// A node that registers members for others uses [NewFor] and the methods whose
// names end in For.
//
//	           register              leave
//	absent ───────────────► present ───────► left ──► absent
//	   ▲        (Joined)    │  ▲  │ (Left)
//	   │                    │  └──┘ update (Updated)
//	   └────────────────────┘
//	     its session ended (Lost)
//
// # Promises
//
//   - A member is in the roster as long as its session is alive and it has not
//     left; it goes in the same revision as the session.
//   - An id belongs to one live session at a time.
//   - A watch tells the events of one group in one order, the same for all
//     watchers. For each id, Joined comes first, Left or Lost ends it, and the
//     next Joined only comes after that.
//   - Left is only told of members that left. Lost is only told of members
//     whose record went without their having said so. The one uncertainty: when
//     history was compacted while a watcher was away, and the member went in
//     the part that is missing, a member whose session is alive has Left, and
//     one whose session is gone counts as Lost; [Event.Gap] marks both.
//
// # What you must do
//
//   - Leave before closing the session: the end of a session by itself is a
//     loss, whoever ended it.
//   - Treat Lost as "the quorum has given it up", not as "it has stopped": a
//     paused member may still act. Give it work under a fencing token.
//   - Read the channel of a watch until it closes, or cancel its context.
//
// The verdict "alive" here is the session's and nothing else's. Failure
// detection that is quicker and finer, by the members' own probes of each
// other, will attach as a further key of the member, written by a majority of
// its observers, and told as a further kind of [Event].
//
// # When it goes wrong
//
//	holdfast.ErrBusy      the id belongs to another live session: choose
//	                      another one, or wait for that session's TTL
//	holdfast.ErrLost      your session is gone and your record with it, or you
//	                      registered the same id anew: this Registration is over
//	holdfast.ErrNotFound  there is no such member of yours
//	holdfast.ErrNoQuorum  no majority answered before the context ended
//	holdfast.ErrInvalid   a bound or a rule is broken; all faults are listed
//
// Without a majority a watch falls silent, and goes on where it stood when
// there is one again.
//
// # Testing
//
// engine.NewMemory in a testing/synctest bubble. The package's own simulation
// runs members and watchers over engine.Faulty and compares what the watchers
// were told with what happened.
package membership
