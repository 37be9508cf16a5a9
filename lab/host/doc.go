//go:build linux

// Package host is the machines of the lab: namespaces with a first process of
// their own, on one machine and without containers. It needs Linux, and root or
// user namespaces with /dev/net/tun and /dev/fuse open to all.
//
// # Use
//
//	code, err := host.Supervise(ctx, host.Supervision{Stage: "lab"}) // whatever is started there ends with it
//
// and in that stage, which package stage starts:
//
//	own, err := host.LabInterface(ctx, host.InterfaceConfig{Name: "lab0", Addr: prefix})
//	n1, err := host.Start(ctx, host.Config{Name: "n1", Addr: addr, Scratch: dir})
//	// plug own.TAP() and n1.TAP() into a switch
//	redis, err := n1.Run(ctx, host.Process{Name: "redis", Argv: []string{"redis-server"}, LogFile: log})
//	n, err := n1.Pause(ctx, "redis")
//	n, err = n1.Resume(ctx, "redis")
//	err = n1.PowerOff(ctx)
//
// A host has its own network, mounts, process ids, hostname and IPC. Its
// processes see the machine's files, but for /proc, /sys, /dev/shm, /etc/hosts,
// /etc/resolv.conf and /etc/hostname, which are its own. IPv6 is off; TCP keeps
// no metrics from one connection to the next; all else is the kernel's default.
//
// # Promises
//
//   - Whatever dies, by whatever signal — the process that called Supervise, the
//     supervisor, the stage, or a host's first process — the kernel ends
//     everything below it, with its mounts and devices. Only a cgroup may stay,
//     until Clean.
//   - Kill, Pause and Resume reach a process with everything it started: by
//     descent, by session, and what has left both by a mark in its environment.
//     Kill returns when they are dead, Pause when they stand still.
//   - A program that could not be executed is an error that says why, and has
//     left no process.
//   - PowerOff lets no byte and no frame out of the host: peers notice only that
//     it is silent.
//   - Throttled is measured, not computed.
//   - With Config.Clock every process that is started is under the filter of
//     lab/vclock before its program runs.
//   - Root and user namespaces behave alike; where there is no user but root,
//     Process.User is one that the process alone sees, so that servers that
//     refuse root run.
//
// # What you must do
//
//   - Call stage.Run first in main, and Supervise before anything else: hosts
//     that are started outside of it end with the process, but their cgroups and
//     its own mounts do not.
//   - Mount a host's disk before Start: a host sees no mounts that come later.
//     Disks of other hosts are not among those it sees. Start a host anew after
//     its disk was mounted anew.
//   - Close what TAP returns, and let nobody use its descriptor by number after
//     that.
//   - Give each host a Scratch of its own.
//   - Know that with root the processes are the machine's real root, unless
//     Process.User says otherwise. The lab runs what you trust.
//
// # When it goes wrong
//
//	no devices, no namespaces   Able says which, and what to do
//	a process waits for a disk  Kill gives up after 10s and PowerOff with ctx, and
//	                            name it: end the disk's fault, or its daemon, first
//	no cgroups                  Throttle stops and resumes processes ten times a
//	                            second instead; threads may then use several cores
//	                            for a share of the time, and a process that looks at
//	                            its state sees that it was stopped
//	a process hides             one that left its session, lost its parent and
//	                            cleared its environment is reached by name no more,
//	                            but by Kill, Pause and PowerOff of the whole host
//	a pause during a fork       processes that are started after Pause returned run
//	a dead lab left a cgroup    Clean removes it
//	first process of a host     Done is closed, all its processes count as killed
//	dies
//
// # Testing
//
// The tests make namespaces, devices and mounts, as root and as nobody, inside
// supervising namespaces of their own; without root those are skipped. What
// decides who belongs to whom, where cgroups are and what is advised is pure, and
// tested with tables.
package host
