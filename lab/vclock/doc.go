// Package vclock moves the wall clock of the processes of one host, in the vDSO
// that the kernel gave each of them: of unmodified programs, also of static ones
// and of those written in Go, at any time while they run. It works on linux/amd64;
// elsewhere everything but the zero offset is an error.
//
// # Use
//
// A Clock is the clock of one host. Whoever starts the host's processes calls
// Install right before execve and sends the listener to the process that has the
// Clock, which calls Serve with it. From then on every program that is executed
// under the filter, by whatever launcher, is changed before its first
// instruction, and Set moves all of them, live:
//
//	clock := vclock.New()
//	defer clock.Close()
//	clock.Serve(listener)
//	err := clock.Set(vclock.Offset{Jump: time.Hour, Drift: 0.0005})
//
// Probe measures what came of it: the stage clockprobe, an ordinary Go process on
// the host, reads its clock both as programs do and by the system call, which
// nothing moves. Its answer is right to within the error that it states, a
// microsecond as a rule.
//
// # Promises
//
//   - CLOCK_REALTIME, CLOCK_REALTIME_COARSE, CLOCK_TAI and CLOCK_REALTIME_ALARM,
//     gettimeofday and time read real time + Jump + Drift·elapsed, to the
//     nanosecond, also before 1970. CLOCK_MONOTONIC, CLOCK_BOOTTIME and the clocks
//     of CPU time never move, and timers fire when they would.
//   - A clock with the zero offset reads what the kernel says.
//   - Children inherit the clock by fork, and programs get it at their exec, exactly.
//   - Readers never see half of a change, and never wait for one.
//   - A process that cannot be changed runs on with the true time, and Unpatched
//     lists it.
//
// Reading a clock takes 10 to 30 ns longer, and with drift twice as long as
// without; where the beginning of the kernel's function is not understood, every
// reading is a system call of about 0.7 µs. An exec takes half a millisecond longer.
// Other system calls pass a filter whose answer the kernel caches.
//
// # What you must do
//
// Serve and Attach trace processes by ptrace, for the moment of an exec: do not
// call them in the process that is the parent of what they trace, for its wait
// would see stops (it is refused and reported), and expect debuggers on a host to
// fail during an exec. The process with the Clock must see the host's processes in
// its /proc, and have CAP_SYS_PTRACE over them: root, or root of the user namespace
// that the host is in. A thread that calls Install without CAP_SYS_ADMIN gets
// no_new_privs.
//
// Close a Clock when its host is gone: what is under its filter can execute no more
// programs afterwards (ENOSYS).
//
// Without seccomp user notification (before Linux 5.5, or where Install fails),
// start programs without the filter and call Attach for one of them. The whole pid
// namespace is then searched every 20 ms: programs read true time for that long.
//
// # When it goes wrong
//
// What does not read the clock by the vDSO is not moved:
//
//   - system calls made directly: by programs that are linked statically with a C
//     library that does not look for the vDSO, such as dietlibc or old versions of
//     musl, and by all programs where the kernel was started with vdso=0;
//   - what the kernel does with time: timerfd and clock_nanosleep until an absolute
//     CLOCK_REALTIME, waits for a condition or futex until one (they end too early or
//     too late by the offset: a real clock that is set has them re-evaluated), times
//     of files, of sockets, in /proc, and of the log of the kernel;
//   - 32-bit and x32 programs, which are listed by Unpatched;
//   - programs that read the time stamp counter themselves.
//
// A program that installs a listener of its
// own for seccomp notifications gets EBUSY. On hosts in a time namespace, drift
// starts as if it were set that namespace's offset ago.
//
// A process that is being forked in the moment of a Set may read the old offset for
// some milliseconds. Set waits for processes whose memory is busy, such as one that
// waits for a page of a file on a disk that does not answer.
//
// # Testing
//
// The shim is checked against its source in testdata, its arithmetic against
// numbers of any size, and its behaviour in C (dynamic and static), Go, Python and
// Redis. Execs are tested in storms, from many threads at once, under signals, stops
// and kills; changes byte by byte under readers that know the only right answers.
package vclock
