// Package enginetest is what every [engine.Engine] must do, as tests.
//
// # Use
//
//	func TestEngine(t *testing.T) {
//	    enginetest.Run(t, func(t *testing.T) enginetest.Harness {
//	        e := open(t) // and t.Cleanup(close)
//	        return enginetest.Harness{Engine: e, MinTTL: 2 * time.Second}
//	    })
//	}
//
// [RunInBubble] is the same with each test in a testing/synctest bubble, for
// engines that need no real network.
//
// # Promises
//
//   - It asserts what package engine promises and nothing about speed; times
//     are only checked in the direction that load cannot falsify.
//   - The random tests compare the engine with a plain map; what they check is
//     the same for every engine, so two engines that pass agree.
//   - Tests share a store where they can and use keys of their own there; those
//     that compact, lose the leader, restart or close get one for themselves,
//     after the others, one at a time.
//
// # What you must do
//
//   - Give the hooks of [Harness] that make sense for the engine. A hook that
//     is nil means that the engine has no such thing, and its tests are not run.
//   - Close what open opened in t.Cleanup; Close may be called twice.
//
// # When it goes wrong
//
// A failing random test prints the command line flag that repeats it.
//
// # Testing
//
// engine's own tests run the suite over Memory, Coalesce and Faulty.
package enginetest
