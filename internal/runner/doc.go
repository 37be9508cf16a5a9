// Package runner runs a command for as long as something is held, and stops it
// before it could be held by another.
//
// # Use
//
//	res, err := runner.Run(ctx, runner.Command{Args: args, Environ: env, …}, runner.Hold{
//	    Lost: held.Lost(), Until: func() time.Duration { return held.ValidUntil().Until() },
//	    Grace: 2 * time.Second,
//	})
//
// # Promises
//
//   - When the hold cannot be kept, the command and all processes of its group
//     get SIGTERM one grace before the hold ends and SIGKILL when it ends. When
//     the hold is found to be lost already, the grace begins then.
//   - When the process that runs it dies in whatever way, the command gets
//     SIGKILL (Linux only).
//   - A command started from a terminal's foreground is in its foreground.
//
// # What you must do
//
// Forward the signals you receive by Command.Signals. A command that leaves its
// process group is not followed.
//
// # When it goes wrong
//
// A process that was stopped and wakes after the hold's end learns of the loss
// only then: that is what fencing tokens are for.
//
// # Testing
//
// The tests run /bin/sh.
package runner
