//go:build linux

package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// setup is the first message to a host's first process.
type setup struct {
	Name, Domain string
	Addr         netip.Prefix
	MAC          net.HardwareAddr
	MTU          int
	Gateway      netip.Addr `json:",omitzero"`
	Neighbors    map[netip.Addr]net.HardwareAddr
	Etc          map[string]string // file below /etc → content
	Data         string
	Scratch      string
	Private      []string
}

// order asks the first process to start a program; the files of stdin, stdout
// and stderr come with it.
type order struct {
	ID   uint64
	Spec spec
}

// spec is what stage exec turns into a program.
type spec struct {
	Argv []string
	Env  []string
	Dir  string
	Give []string // directories that are made, and handed over to User when root has them
	User string
	UID  int // of User, looked up by the first process
	GID  int
	Drop bool // set user and group; otherwise they are right already
	// Clock asks for the filter of lab/vclock.
	Clock bool
}

// report is what the first process tells.
type report struct {
	What news
	ID   uint64 // of the order
	Err  string
	// Code and Signal say how the program ended.
	Code   int
	Signal int
}

type news string

const (
	reportReady   news = "ready"   // the host is up; files: TAP, netlink socket
	reportFailed  news = "failed"  // it never will be: Err
	reportForked  news = "forked"  // the order has a process: its id is in the credentials
	reportClock   news = "clock"   // a seccomp listener
	reportStarted news = "started" // the program was executed
	reportRefused news = "refused" // it was not: Err
	reportExit    news = "exit"
)

// maxMessage is more than a message can have: arguments and environment of a
// program are its largest part.
const maxMessage = 192 << 10

// conn carries messages with files and process ids.
type conn struct{ c *net.UnixConn }

// newConn takes over f, one end of a socket pair.
func newConn(f *os.File) (*conn, error) {
	defer func() { _ = f.Close() }()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, errors.New("not a unix socket")
	}
	return &conn{u}, nil
}

// pair makes two connected ends; both see the sender's process id in the terms
// of their own pid namespace.
func pair() (ours *conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "control")
	for _, fd := range fds {
		if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
			break
		}
	}
	if err == nil {
		ours, err = newConn(os.NewFile(uintptr(fds[0]), "control"))
	} else {
		_ = unix.Close(fds[0])
	}
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

func (c *conn) close() { _ = c.c.Close() }

// send sends v with files, which are set to blocking mode, because that is what
// programs expect. pid, when it is not 0, is told as the sender's.
func (c *conn) send(v any, pid int, files ...*os.File) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) > maxMessage {
		return fmt.Errorf("arguments and environment of %d bytes are too large", len(data))
	}
	var oob []byte
	if pid != 0 {
		oob = unix.UnixCredentials(&unix.Ucred{Pid: int32(pid)})
	}
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			raw, err := f.SyscallConn()
			if err != nil {
				return err
			}
			// The file stays open until the message was sent: the callers hold it.
			var failed error
			err = raw.Control(func(fd uintptr) { fds[i], failed = int(fd), unix.SetNonblock(int(fd), false) })
			if err = errors.Join(err, failed); err != nil {
				return err
			}
		}
		oob = append(oob, unix.UnixRights(fds...)...)
	}
	_, _, err = c.c.WriteMsgUnix(data, oob, nil)
	return err
}

// receive reads one message into v. The error is io.EOF when the other end is
// closed.
func (c *conn) receive(v any) (pid int, files []*os.File, err error) {
	data := make([]byte, maxMessage)
	oob := make([]byte, 256)
	n, oobn, flags, _, err := c.c.ReadMsgUnix(data, oob)
	if err != nil {
		return 0, nil, err
	}
	if n == 0 {
		return 0, nil, io.EOF
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return 0, nil, err
	}
	for i := range messages {
		if cred, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			pid = int(cred.Pid)
			continue
		}
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("message cut off")
	} else {
		err = json.Unmarshal(data[:n], v)
	}
	if err != nil {
		closeAll(files)
		return 0, nil, err
	}
	return pid, files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}
