//go:build linux

// Package lab runs real, unmodified servers as separate hosts on one machine,
// breaks the network, the processes, the clocks and the disks under them, and
// checks what their clients saw.
//
// # Use
//
//	s, err := lab.Load("redis-sentinel-partition") // or a file
//	plan, err := lab.NewPlan(*s, seed)
//	data, err := lab.Execute(ctx, plan, dir, command, progress) // in namespaces that host.Supervise made
//
// The command line is in cmd/holdfast: holdfast lab run. A scenario says in YAML
// which hosts there are, what runs on them, what clients ask, and what breaks; a
// plan is a scenario with every choice made; a run is what came of a plan: a
// directory with plan.json, history.jsonl, journal.jsonl, run.json, report.html
// and the servers' logs.
//
// # Promises
//
//   - A run is valid only where every checker says so, every fault touched
//     something, work and faults met, and the lab itself was not late. Where
//     nobody can tell, the verdict is unknown.
//   - An operation fails only where it certainly had no effect. What was sent
//     and not answered is unknown, for ever.
//   - Whatever ends the lab, the kernel ends everything that it started.
//   - The same plan injects the same faults in the same order. What servers and
//     kernel do between them is theirs.
//
// # What you must do
//
// Give the machine room: servers, clients and the switch share its cores, and a
// starved server looks like a broken one. Runs whose frames were late say so.
//
// # When it goes wrong
//
// An error of Execute means that there was no run: a program is missing, a
// server did not start. Its last lines are in the error, all of them in the
// directory. A verdict of unknown names its reasons in Doubts.
//
// # Testing
//
// The controls in this package's tests run scenarios that are known to fail and
// others that are known to hold, against the servers of Debian's packages.
package lab
