//go:build linux

// Package faultfs is a filesystem that knows what was synced, and forgets the
// rest when the power fails. Any program can run on it, unmodified.
//
// # Use
//
// [Start] mounts an empty filesystem and starts the process that serves it, from
// the same binary: its main function calls stage.Run first. It is a FUSE
// filesystem that lives in memory. It needs /dev/fuse and the right to mount, as
// root or as root of a user namespace.
//
//	f, err := faultfs.Start(ctx, faultfs.Config{Mount: dir})
//	// run a database in dir, kill it with SIGKILL, then:
//	losses, err := f.Crash(ctx, faultfs.Crash{})
//	// run it again: does it have all that it acknowledged?
//
// There are two images: what processes see, and what the disk has. Every change
// is pending until an fsync, O_SYNC, O_DSYNC or msync makes it durable. A power
// failure ([FS.Crash]) leaves what the [Profile] promises, and of the rest what
// the [Policy] grants:
//
//   - [Ext4Ordered], the default, is what most servers run on. The journal of
//     metadata survives as a prefix; any fsync that has something to commit
//     commits all of it that came before, for all files. Data is not in the
//     journal: a file that was written and not synced comes back short or
//     empty. A rename over a file, and the closing of a file that was cut to
//     nothing, put the data on the disk before the journal. etcd, bbolt,
//     PostgreSQL and Redis with appendfsync always lose nothing on it; if they
//     do in a scenario, that is a finding.
//   - [Posix] is the strictest reading of the standard, that of ALICE
//     (Pillai et al., OSDI 2014): fsync of a file makes its content and its
//     attributes durable, not its name. A new file whose directory was not
//     synced is gone though it was synced itself. Only a rename is one step. A
//     program that loses something here and not on Ext4Ordered relies on its
//     filesystem.
//   - [LazyFS] is the model of the tool of that name: names, modes and extended
//     attributes are durable at once, content and sizes are not.
//
// Policies: [LoseAll] leaves the least. [Aged] spares what is older than
// Crash.Age, as a kernel writes back after some 30 seconds; without it the lab
// is harsher than a real machine to programs that never sync. [Subset] keeps a
// random part that respects dependencies, [Prefix] what happened before some
// moment, [TornTail] that too, and of the last write only some sectors of 512
// bytes.
//
// A [Rule] makes operations fail, hang, take longer, or reach the disk
// otherwise than the process believes. [FS.Touched] tells how many it met, so
// that a fault that touched nothing is not taken for one that was survived.
//
// # Promises
//
// What was synced survives every power failure, with every policy: the core is
// compared with a second, naive implementation over random histories, power
// failures and faults included. Killing processes loses nothing.
//
// After [FS.Crash] the filesystem is mounted anew, so no page that the kernel
// cached survives, nor what it had not written back of memory maps. Inode
// numbers are never used again.
//
// The kernel passes no operation by: Start checks that what is written reaches
// the daemon. Everything random is a function of the seed, the rule and the
// number of the matching operation. Latencies, of fsync and of [Slow], are
// lognormal with the given mean: the median is 0.88 of it, one of a hundred
// takes 2.8 times as long.
//
// A stalled operation ends when its rule is removed, when its process gets
// SIGKILL, or when the power fails. Rules survive a power failure.
//
// # What you must do
//
// End every process that uses the mount before Crash, with SIGKILL and all at
// once; a process that is left, whichever namespace it is in, makes Crash fail
// with its name, and nothing is lost. Close the filesystem: its content is gone
// then; [FS.Dump] saves it for a look at it.
//
// Do not start a process whose files lie here from the process that serves it;
// that is why the daemon is one of its own.
//
// # When it goes wrong
//
// sync(2) and syncfs(2) make nothing durable: the kernel does not tell a FUSE
// filesystem of them. A program that relies on them instead of fsync loses what
// it wrote; [FS.Sync] does what they should.
//
// fsync takes a millisecond unless told otherwise, and real disks may need more:
// what is measured here is not what a machine would show. A small write
// costs some 20 µs, twenty times what it costs on a native filesystem.
//
// The model is coarser than a kernel. A write with O_SYNC makes the whole file
// durable, not its range. A file that was removed and closed loses its unsynced
// content once its removal is in the journal, and a file that came and went
// within one transaction of the journal leaves no trace. Times of directories
// are not promised, and the time of last access changes only when it is set.
// When more than a million operations or 256 MiB of content are pending the oldest
// are written back, as a kernel does that runs out of clean pages
// (Counters.WrittenBack). Crash states in which blocks hold what some other file
// had are not among those that Subset draws.
//
// [Stale], [Torn] and [Misdirect] happen between the page cache and the disk, as
// they do in drives: processes read what they wrote, until the power fails. A
// page that is written again heals. [FlipRead] changes what is read from the
// daemon; the kernel keeps the page until the rule is removed. [FS.Flip] changes
// both images.
//
// The content is in memory: twice what is stored, at the worst, and what is
// pending. Config.Quota bounds what processes can store, 4 GiB. Space that is
// only reserved takes none.
//
// # Testing
//
// The tests hold the core against the model, enumerate the states that a power
// failure can leave after the usual ways to write a file, and mount it: POSIX
// behaviour, random access against a copy in memory, bbolt, Redis and PostgreSQL
// with power failures. Those need root, /dev/fuse and the servers, and say what
// is missing.
package faultfs
