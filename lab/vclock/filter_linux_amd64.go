package vclock

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// System call numbers of the other ABIs, see the tables in arch/x86/entry/syscalls.
const (
	x32Execve    = 0x40000000 + 520
	x32Execveat  = 0x40000000 + 545
	i386Execve   = 11
	i386Execveat = 358
)

// execFilter sends every exec to the listener, of 64-bit, x32 and 32-bit
// programs, and lets everything else be.
func execFilter() []unix.SockFilter {
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret   = unix.BPF_RET | unix.BPF_K
		nr    = 0 // offsets in struct seccomp_data
		arch  = 4
	)
	return []unix.SockFilter{
		{Code: load, K: arch},
		{Code: equal, K: unix.AUDIT_ARCH_X86_64, Jt: 1},
		{Code: equal, K: unix.AUDIT_ARCH_I386, Jt: 5, Jf: 7},
		{Code: load, K: nr},
		{Code: equal, K: unix.SYS_EXECVE, Jt: 6},
		{Code: equal, K: unix.SYS_EXECVEAT, Jt: 5},
		{Code: equal, K: x32Execve, Jt: 4},
		{Code: equal, K: x32Execveat, Jt: 3, Jf: 2},
		{Code: load, K: nr},
		{Code: equal, K: i386Execve, Jt: 1},
		{Code: equal, K: i386Execveat, Jf: 1},
		{Code: ret, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
	}
}

// Install installs, in the calling thread, the filter that announces every
// exec, and returns its listener. The caller has locked its OS thread, hands the
// listener to the process that serves the clock (Clock.Serve), and then calls
// execve in the same thread, which waits until that one lets it. Children
// inherit the filter.
//
// A thread without CAP_SYS_ADMIN gets no_new_privs, so that programs with the
// set-user-ID bit gain nothing from it any more. Install before giving up root
// to avoid that.
func Install() (*os.File, error) {
	// With the second flag (Linux 5.19) an exec that waits for us is interrupted
	// by nothing but its end; without it, by every signal, to begin anew.
	listener, err := install(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
	if errors.Is(err, unix.EINVAL) {
		return install(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)
	}
	return listener, err
}

func install(flags uintptr) (*os.File, error) {
	filter := execFilter()
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, errno := seccomp(&prog, flags)
	if errno == unix.EACCES {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return nil, fmt.Errorf("vclock: no_new_privs: %w", err)
		}
		fd, errno = seccomp(&prog, flags)
	}
	runtime.KeepAlive(filter)
	if errno == 0 {
		return os.NewFile(fd, "seccomp listener"), nil
	}
	if errno == unix.EBUSY {
		return nil, errors.New("vclock: install: the process is under the filter of another listener already")
	}
	return nil, fmt.Errorf("vclock: install: seccomp user notification: %w", errno)
}

func seccomp(prog *unix.SockFprog, flags uintptr) (uintptr, unix.Errno) {
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(prog)))
	return fd, errno
}

// notification is struct seccomp_notif.
type notification struct {
	id    uint64
	pid   uint32 // the thread, in the receiver's pid namespace; 0 if it is not seen there
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

// response is struct seccomp_notif_resp.
type response struct {
	id    uint64
	val   int64
	err   int32
	flags uint32
}

const (
	ioctlReceive = 0xc0502100 // SECCOMP_IOCTL_NOTIF_RECV
	ioctlSend    = 0xc0182101 // SECCOMP_IOCTL_NOTIF_SEND
	flagContinue = 1          // SECCOMP_USER_NOTIF_FLAG_CONTINUE
)

// receive takes the next notification. It is called when there is one.
func receive(fd int) (notification, error) {
	var n notification // has to be zero
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ioctlReceive, uintptr(unsafe.Pointer(&n))); errno != 0 {
		return notification{}, errno
	}
	return n, nil
}

// proceed lets the announced exec happen.
func proceed(fd int, n notification) error {
	r := response{id: n.id, flags: flagContinue}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ioctlSend, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return errno
	}
	return nil
}
