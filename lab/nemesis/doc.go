// Package nemesis is what breaks: faults as values that print and parse, and
// how each is injected, seen to work, and taken back.
//
// # Use
//
//	n := nemesis.New(world, nemesis.Config{Seed: 7, Journal: write})
//	fault, err := nemesis.Parse("net cut primary|followers for 10s")
//	active, err := n.Inject(ctx, fault)
//	...
//	err = active.Recover(ctx) // or it ends by itself after ten seconds
//	err = n.Close(ctx)        // heals what is left
//	for _, r := range n.Records() { // what was hit, when, and what it touched
//	}
//
// [Parse] reads the language of docs/lab-faults.md, [Fault.String] prints it.
// [Expand] draws what a fault leaves to chance, so that a plan has names.
// [Schedule] draws a whole run of faults from templates. [World] is what faults
// act on: the lab implements it.
//
// # Promises
//
//   - Parse(f.String()) is f. An error of Parse is a [*SyntaxError] that points
//     at a column and names what was expected there.
//   - Draws are a pure function of the seed, the fault's text and how often that
//     text came before, never of time or order. Expand and Schedule with the
//     same arguments give the same result.
//   - A fault goes through setup, inject, verify effect, recover, verify
//     recovery and cleanup in this order, whatever is called when.
//   - What an injection began is taken back when it fails or its context ends.
//     Recovering runs to its end whatever becomes of the caller's context, with
//     a deadline of its own, and a second call is the same as one. When it
//     fails, the fault stays in [Nemesis.Active], and the next call tries again
//     what is left.
//   - Faults that overlap on a host end rightly: processes run when nothing
//     holds them any more, offsets of clocks add up, the lowest share of the
//     processor counts. A start that is under way is ended by a fault that needs
//     the host, and made up for when that ends; it never keeps other faults from
//     being healed.
//   - A fault says what it touched, measured and not assumed: frames that the
//     switch changed, processes that were hit, clocks that a probe read. One
//     that touched nothing has [Effect.Nothing].
//   - Every goroutine of a fault has ended when [Active.Done] is closed.
//
// # What you must do
//
//   - Close the Nemesis before the world ends.
//   - Not call the Nemesis from the journal's callback, and expect it from
//     several goroutines: events of one fault are in order, those of several
//     mix.
//   - Start and stop servers through faults while some are active; what is done
//     behind the back of the Nemesis it does not know.
//   - Implement World so that what is done twice is done once: Start of what
//     runs, Resume of what is not paused, Remove of what is removed.
//
// # When it goes wrong
//
// Inject returns why nothing is broken: no such host, no primary at this time,
// the world's own error. Record.Err has one line for everything that failed,
// also a clock that does not read what it should, or servers that do not run
// after they were started; such a fault is still recovered as far as it goes.
// [Nemesis.HealAll] goes on after failures, tries them a second time, and
// returns what is left. Whose answers a name server changed while two faults of
// names were active cannot be told: both count all. That links are healed is
// the switch's word; whether the system lives again is for the caller to see.
// Damage to disks stays when its fault is recovered.
//
// # Testing
//
// World is small enough to fake; everything that waits uses timers that
// testing/synctest moves. The tests hold a world that records its calls, check
// every example of the documentation, and the shapes of partitions by their
// properties.
package nemesis
