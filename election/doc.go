// Package election lets processes agree on who leads, one at a time, with a
// token that the leader's effects carry.
//
// # Use
//
//	elections := election.New(session)
//	lead, err := elections.Campaign(ctx, "scheduler", []byte("10.0.0.7:80"))
//	if err != nil {
//	    return err
//	}
//	defer lead.Resign(context.WithoutCancel(ctx))
//	err = schedule(lead.Context(), lead.Token()) // stops when leadership is lost
//
// Everybody else learns who leads, and that nobody does:
//
//	for v := range elections.Observe(ctx, "scheduler") {
//	    if v.Leader == nil { … } else { dial(v.Leader.Value) }
//	}
//
// # Promises
//
//   - At most one leader at any revision of the engine; each has a token greater
//     than every leader before it, also across restores.
//   - Leadership.Context ends before the quorum can elect another, as long as the
//     process runs.
//   - Campaign returns nil only for a leadership that the quorum has on record
//     under a session that lives: there are no phantom leaders.
//   - With Fence, nobody leads after a leader that vanished until the hook has
//     succeeded. A leader that resigned needs no fencing.
//   - Candidates lead in the order in which they campaigned.
//
// # What you must do
//
//   - Send Leadership.Token with every effect (package fence), or fence the old
//     leader itself off with Fence (STONITH), or both.
//   - Give all candidates of one election the same Fence hook: one without it
//     takes over without asking.
//
// # When it goes wrong
//
//	no quorum        nobody is elected; a leader leads until its session's
//	                 deadline, and observers hear nothing new
//	leader killed    the next one follows after the session's TTL
//	leader paused    as if killed; on waking its context ends
//	hook fails       Campaign returns its error and the next candidate tries
//
// # Testing
//
// engine.NewMemory inside testing/synctest; the simulation in this package.
package election
