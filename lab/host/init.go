//go:build linux

package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast.dev/internal/stage"
)

// The stages of this package.
const (
	stageSupervise = "host.supervise"
	stageInit      = "host.init"
	stageExec      = "host.exec"
	stageAble      = "host.able"
)

func init() {
	stage.Register(stageSupervise, superviseStage)
	stage.Register(stageInit, initStage)
	stage.Register(stageExec, execStage)
	stage.Register(stageAble, ableStage)
}

// Descriptor 3 is the control socket in stage init, the status socket in stage
// exec.
const controlFD = 3

// initStage is the first process of a host. Everything that changes its state
// happens in one goroutine.
func initStage([]string) int {
	c, err := newConn(os.NewFile(controlFD, "control"))
	if err != nil {
		return 70
	}
	// Signals from inside the host must not end it, and must not be ignored
	// either: what is ignored stays so in the programs it starts.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)

	var s setup
	if _, _, err := c.receive(&s); err != nil {
		return 70
	}
	if err := s.become(c); err != nil {
		_ = c.send(report{What: reportFailed, Err: err.Error()}, 0)
		return 1
	}
	i := &initd{conn: c, children: map[int]*child{}, status: make(chan status)}
	orders := make(chan incoming)
	go func() {
		defer close(orders)
		for {
			var o incoming
			var err error
			if _, o.files, err = c.receive(&o.order); err != nil {
				return
			}
			orders <- o
		}
	}()
	for {
		select {
		case o, ok := <-orders:
			if !ok {
				return 0 // the lab is gone, and with this process goes all else
			}
			i.start(o)
		case s := <-i.status:
			i.learn(s)
		case sig := <-signals:
			if sig == syscall.SIGCHLD {
				i.reap()
			}
		}
	}
}

type incoming struct {
	order order
	files []*os.File
}

// initd is the state of a host's first process.
type initd struct {
	conn     *conn
	children map[int]*child // by process id
	status   chan status
}

// child is a process that was started by order.
type child struct {
	id      uint64
	decided bool                // whether it was executed or refused is known
	refused string              // why it was not executed
	over    *syscall.WaitStatus // it has ended
}

// status is what the exec stage of a child says; without a file and a reason
// the program was executed.
type status struct {
	pid      int
	listener *os.File
	err      string
}

// start starts stage exec for an order.
func (i *initd) start(in incoming) {
	defer closeAll(in.files)
	id := in.order.ID
	pid, socket, err := i.fork(in)
	if err != nil {
		_ = i.conn.send(report{What: reportRefused, ID: id, Err: err.Error()}, 0)
		return
	}
	i.children[pid] = &child{id: id}
	_ = i.conn.send(report{What: reportForked, ID: id}, pid)
	go func() {
		defer socket.close()
		for {
			var line struct{ Err string }
			_, files, err := socket.receive(&line)
			if err != nil { // closed by the execution, or by its death
				i.status <- status{pid: pid}
				return
			}
			if line.Err != "" {
				i.status <- status{pid: pid, err: line.Err}
				return
			}
			for _, f := range files {
				i.status <- status{pid: pid, listener: f}
			}
		}
	}()
}

// fork starts the process of an order and returns it with its status socket.
func (i *initd) fork(in incoming) (pid int, socket *conn, err error) {
	if len(in.files) != 3 {
		return 0, nil, fmt.Errorf("%d files instead of stdin, stdout and stderr", len(in.files))
	}
	sp := in.order.Spec
	attr := &syscall.SysProcAttr{Setsid: true}
	if sp.User != "" {
		if sp.UID, sp.GID, err = lookupUser(sp.User); err != nil {
			return 0, nil, err
		}
		uids, err := os.ReadFile("/proc/self/uid_map")
		if err != nil {
			return 0, nil, err
		}
		gids, err := os.ReadFile("/proc/self/gid_map")
		if err != nil {
			return 0, nil, err
		}
		switch {
		case sp.UID == 0:
		case mapped(string(uids), sp.UID) && mapped(string(gids), sp.GID):
			sp.Drop = true
		default:
			// There is no such user in our namespace: the process gets one where
			// our only user has that number.
			attr.Cloneflags = syscall.CLONE_NEWUSER
			attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: sp.UID, HostID: 0, Size: 1}}
			attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: sp.GID, HostID: 0, Size: 1}}
		}
	}
	arg, err := json.Marshal(sp)
	if err != nil {
		return 0, nil, err
	}
	ours, theirs, err := pair()
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = theirs.Close() }()
	argv := stage.Argv(stageExec, string(arg))
	files := make([]uintptr, 0, 4)
	for _, f := range append(in.files, theirs) {
		files = append(files, f.Fd())
	}
	pid, err = syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{Files: files, Env: []string{}, Dir: "/", Sys: attr})
	if err != nil {
		ours.close()
		return 0, nil, os.NewSyscallError("start a process", err)
	}
	return pid, ours, nil
}

// learn takes in what a child said, and passes it on.
func (i *initd) learn(s status) {
	c := i.children[s.pid]
	switch {
	case c == nil:
		closeAll([]*os.File{s.listener})
	case s.listener != nil:
		_ = i.conn.send(report{What: reportClock, ID: c.id}, 0, s.listener)
		_ = s.listener.Close()
	case s.err != "":
		c.decided, c.refused = true, s.err
	default:
		c.decided = true
		_ = i.conn.send(report{What: reportStarted, ID: c.id}, 0)
	}
	if c != nil {
		i.finish(s.pid, c)
	}
}

// reap waits for every process that has ended: children and orphans.
func (i *initd) reap() {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if c := i.children[pid]; c != nil {
			c.over = &ws
			i.finish(pid, c)
		}
	}
}

// finish reports the end of a child, or that it never was the program that was
// asked for, once both are known.
func (i *initd) finish(pid int, c *child) {
	if c.over == nil || !c.decided {
		return
	}
	delete(i.children, pid)
	r := report{What: reportExit, ID: c.id, Code: c.over.ExitStatus()}
	switch {
	case c.refused != "":
		r = report{What: reportRefused, ID: c.id, Err: c.refused}
	case c.over.Signaled():
		r.Signal = int(c.over.Signal())
	}
	_ = i.conn.send(r, 0)
}

// lookupUser finds a user by name or number.
func lookupUser(name string) (uid, gid int, err error) {
	if number, err := strconv.Atoi(name); err == nil && number >= 0 {
		if u, err := user.LookupId(name); err == nil {
			gid, err := strconv.Atoi(u.Gid)
			return number, gid, err
		}
		return number, number, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, fmt.Errorf("user %s: not known here", name)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	return uid, gid, errors.Join(err1, err2)
}

// mapped tells whether a map of user or group ids has id inside.
func mapped(table string, id int) bool {
	for line := range strings.Lines(table) {
		var inside, outside, count int64
		if _, err := fmt.Sscan(line, &inside, &outside, &count); err != nil {
			continue
		}
		if n := int64(id); n >= inside && n < inside+count {
			return true
		}
	}
	return false
}

// become turns the new namespaces into the host, and sends its network
// interface to the lab.
func (s setup) become(c *conn) error {
	if err := unix.Sethostname([]byte(s.Name)); err != nil {
		return os.NewSyscallError("set hostname", err)
	}
	if err := unix.Setdomainname([]byte(s.Domain)); err != nil {
		return os.NewSyscallError("set domain", err)
	}
	if err := s.mount(); err != nil {
		return err
	}
	if err := setSysctls(); err != nil {
		return err
	}
	if err := loopback(); err != nil {
		return err
	}
	n := nic{name: "eth0", addr: s.Addr, mac: s.MAC, mtu: s.MTU, gateway: s.Gateway, neighbors: s.Neighbors}
	tap, control, err := n.open()
	if err != nil {
		return err
	}
	defer closeAll([]*os.File{tap, control})
	return c.send(report{What: reportReady}, 0, tap, control)
}

// mount gives the host its own /proc, /sys, /dev/shm and files in /etc.
func (s setup) mount() error {
	if err := privateMounts(); err != nil {
		return err
	}
	if err := mountProc(); err != nil {
		return err
	}
	if err := s.dropDisks(); err != nil {
		return err
	}
	// Where it may be mounted anew, /sys shows the host's own interfaces.
	_ = unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, "")
	for _, dir := range append([]string{"/dev/shm"}, s.Private...) {
		err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777")
		if err != nil {
			return &os.PathError{Op: "mount tmpfs on", Path: dir, Err: err}
		}
	}
	tmp := filepath.Join(s.Scratch, "tmp")
	etc := filepath.Join(s.Scratch, "etc")
	for _, dir := range []string{tmp, etc} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(tmp, os.ModeSticky|0o777); err != nil {
		return err
	}
	for name, content := range s.Etc {
		own := filepath.Join(etc, name)
		if err := os.WriteFile(own, []byte(content), 0o644); err != nil {
			return err
		}
		target, err := filepath.EvalSymlinks(filepath.Join("/etc", name))
		if errors.Is(err, os.ErrNotExist) && name == "hostname" {
			continue // nobody misses it: the kernel knows the name
		}
		if err != nil {
			return fmt.Errorf("%w: the host needs it, and cannot make it without changing the machine's", err)
		}
		if err := unix.Mount(own, target, "", unix.MS_BIND, ""); err != nil {
			return &os.PathError{Op: "bind", Path: target, Err: err}
		}
	}
	return nil
}

// dropDisks unmounts, for this host, the disks of the others: they could not go
// away while it has them.
func (s setup) dropDisks() error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		m, ok := parseMount(line)
		if !ok || !m.disk() || within(s.Data, m.point) || within(m.point, s.Data) {
			continue
		}
		_ = unix.Unmount(m.point, unix.MNT_DETACH) // refused for one from outside the lab, which is none of its disks
	}
	return nil
}

// privateMounts lets no mount of ours be seen elsewhere.
func privateMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("make mounts private", err)
	}
	return nil
}

// mountProc mounts the /proc of this process's pid namespace.
func mountProc() error {
	err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if err != nil {
		return fmt.Errorf("mount /proc: %w (in a container: it must be run with an unmasked /proc)", err)
	}
	return nil
}
