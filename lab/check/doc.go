// Package check decides from a history alone whether what clients saw is what they
// were promised. It knows nothing of the system, and needs nothing of it.
//
// # Use
//
//	h, err := history.ReadAny(file)
//	for _, name := range check.Guess(h) {
//	    run, _ := check.ByName(name)
//	    r := run(ctx, h)
//	    fmt.Println(r.Checker, r.Verdict, r.Summary)
//	}
//
// Or with options: check.Register{Initial: int64(0)}.Check(ctx, h).
//
// # Promises
//
//   - Invalid is proof: no run of a system that keeps what the checker states gives this
//     history, if the history tells the truth. Calls of unknown outcome are given
//     every chance: that they took effect, later, or never.
//   - Valid says that the history has what the checker looks for and nothing
//     against the promise. How far that goes is said at each checker: Register,
//     CAS and KV decide linearizability; Append finds circles of transactions,
//     which is nearly everything; the others find what they name.
//   - What a system cannot keep is not asked of it: holders of a lock that are
//     stopped may outlive their lease, so Lock asks for tokens that say who came
//     first, and Effects what became of it.
//   - Unknown is said, with the reason, wherever a checker cannot decide: nothing
//     was shown, values cannot be told apart, time or memory ran out, ctx
//     ended, the history is malformed.
//   - A result is the same each time, witness and all, unless a time limit ended
//     the check.
//   - The witness names what contradicts what, who and when, in ten lines at most;
//     the figures count all of it.
//
// # What you must do
//
//   - Record the truth: see package history. A call that is said to have failed
//     and took effect makes a good system guilty.
//   - Read at the end, after everything is healed: what was never read again is
//     not known to be there. Drain queues.
//   - Write values that are unique; check them with Register rather than CAS where
//     no cas is needed. For CAS keep to ten processes for a key.
//   - Look at Stats and Exposed too. A history in which nothing succeeded, or no
//     call met the fault, shows nothing.
//
// # When it goes wrong
//
//	too many calls at once for CAS   Unknown after Timeout or Memory, which key
//	                                 and how many calls are open in it
//	a value written twice            Register: Unknown; CAS can decide small ones
//	clocks of several machines       times cannot be compared: any verdict is
//	                                 worthless; take all from one clock
//	a checker panics                 ByName and Safely make it Unknown
//
// # Testing
//
// Every checker is tested by histories that it must refuse, by random legal
// runs and by what remains of them when one thing is broken; Register and
// CAS against porcupine on tens of thousands of random histories; Append against
// all orders of thousands of tiny ones.
package check
