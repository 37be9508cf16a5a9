// Package driver knows how systems are started and how their clients talk to them.
//
// # Use
//
// A [System] is something to break: etcd, Redis, PostgreSQL and Holdfast have
// packages of their own below this one. Anything else is described in a scenario,
// without Go:
//
//	sys, err := driver.NewExec(cfg) // commands, and HTTP requests or a program as client
//	err = sys.Setup(ctx, env)
//	client, err := sys.Client(ctx, env, "n1", "register")
//	done := client.Invoke(ctx, op)
//
// Clients are of three kinds: Go code, requests over HTTP ([HTTPConfig]), and
// programs in any language that read requests and write answers line by line
// ([Lines]; the protocol is docs/lab-protocol.md). Go code becomes such a program
// with [Serve], and with [ClientStage] in this same binary: so clients can live on
// hosts that are paused, cut off and given another time. [WithResource] adds to a
// client of locks the work that is done under the lock.
//
// What operations mean is in the documentation of package workload.
//
// # Promises
//
// The clients here call an operation failed only if the server cannot have seen
// it: no connection came about, a program was never handed the request, or the
// answer is one that the scenario lists as a refusal. Whatever else goes wrong
// after that is Info. They never send anything twice: HTTP requests do not go
// through net/http's transport, which repeats some by itself. Each talks to one
// server.
//
// Programs are held to the protocol. One that ends, writes something else, answers
// what it was not asked, or is silent for too long is killed, with all that it
// started, and the next operation meets a new one. A line is 16 MiB at most, an
// HTTP answer too.
//
// NewExec finds faults of a description before anything runs, all at once,
// including names that templates do not have.
//
// # What you must do
//
// A client is used by one process at a time, [Lines] excepted. Close it after an
// operation of unknown outcome, and make a new one.
//
// Invoke ends when its ctx does. The exception is an add of WithResource: it
// plays a program that believes in its lock and ignores deadlines between reading
// and writing; wait for it, or cancel.
//
// A program that is paused cannot answer. Whoever wants to know how its operation
// ended gives Invoke more time than LinesConfig.Timeout, which the program is told.
//
// In HTTPConfig, list under fail only statuses that the server gives before it
// does anything. A 500 or 504 is none of them.
//
// # When it goes wrong
//
// Invoke has no errors: they are in the operation. [ErrUnsupported] says that a
// system has no client for a workload. Errors of Setup name the server, the host
// and the command. An operation that the description has no request for, or whose
// template does not fit its value, fails, and says what to add.
//
// # Testing
//
// Programs and servers that do everything wrong: garbage, lines and headers
// without end, ends at every point, silence, answers to other questions; that what
// a program has seen is never called failed, under random faults; that a request
// on a broken connection is not repeated; the example of the protocol's
// description is run as it stands there.
package driver
