//go:build linux

package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/internal/labtest"
	"holdfast.dev/internal/stage"
	"holdfast.dev/lab/vclock"
)

// The tests run in supervising namespaces: what one of them forgets is gone with
// the last.
func TestMain(m *testing.M) {
	stage.Register("test.all", func(args []string) int {
		os.Args = append([]string{os.Args[0]}, args...)
		return m.Run()
	})
	for name, run := range programs {
		stage.Register(name, run)
	}
	if code, ok := stage.Run(os.Args, os.Stderr); ok {
		os.Exit(code)
	}
	if !privileged() {
		os.Exit(labtest.Main(m))
	}
	// Otherwise each process with the race detector takes a second to end.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		os.Exit(fail(err))
	}
	code, err := Supervise(context.Background(), Supervision{
		Stage: "test.all", Args: os.Args[1:], Stdout: os.Stdout, Stderr: os.Stderr,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// programs are what the tests run on hosts and in namespaces.
var programs = map[string]func(args []string) int{
	// echo serves connections until it is killed, and says what it was sent.
	"test.echo": func([]string) int {
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", ":7")
		if err != nil {
			return fail(err)
		}
		fmt.Println("ready")
		for {
			c, err := l.Accept()
			if err != nil {
				return fail(err)
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	},
	// call sends stdin to args[0] and prints what comes back.
	"test.call": func(args []string) int {
		c, err := new(net.Dialer).DialContext(context.Background(), "tcp", args[0])
		if err != nil {
			return fail(err)
		}
		go func() {
			_, _ = io.Copy(c, os.Stdin)
			_ = c.(*net.TCPConn).CloseWrite()
		}()
		if _, err := io.Copy(os.Stdout, c); err != nil {
			return fail(err)
		}
		return 0
	},
	// spin uses a core.
	"test.spin": func([]string) int {
		for n := 0; ; n++ {
			_ = n
		}
	},
	// scatter starts a tree: a child, a grandchild, and one that left the
	// session and lost its parent; then it waits.
	"test.scatter": func([]string) int {
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return fail(err)
		}
		attr := &os.ProcAttr{Files: []*os.File{null, null, null}}
		if _, err = os.StartProcess("/bin/sh", []string{"sh", "-c", "sleep 1000 & sleep 1000; true"}, attr); err != nil {
			return fail(err)
		}
		p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "setsid sleep 2000 & setsid setsid sleep 2000 & true"}, attr)
		if err != nil {
			return fail(err)
		}
		if _, err = p.Wait(); err != nil {
			return fail(err)
		}
		return wait()
	},
	// wait waits until it is killed.
	"test.wait": func([]string) int { return wait() },
	// lab starts a host with a tree of processes, in the directory args[0], and
	// waits.
	"test.lab": func(args []string) int {
		h, err := Start(context.Background(), config("n1", 11, args[0]))
		if err != nil {
			return fail(err)
		}
		p, err := h.Run(context.Background(), Process{Name: "tree", Argv: stage.Argv("test.scatter"), Stdout: os.Stdout})
		if err != nil {
			return fail(err)
		}
		<-p.Done()
		return 1
	},
	// outer supervises test.lab.
	"test.outer": func(args []string) int {
		return supervise("test.lab", args...)
	},
	// code ends with a code, signal by a signal of its own.
	"test.code": func([]string) int { return 42 },
	"test.signal": func([]string) int {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		return wait()
	},
	// term waits for SIGTERM or SIGUSR1.
	"test.term": func([]string) int {
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM, syscall.SIGUSR1)
		fmt.Println("ready")
		fmt.Println("got", <-c)
		return 3
	},
	// deaf ignores SIGTERM.
	"test.deaf": func([]string) int {
		signal.Ignore(syscall.SIGTERM)
		return wait()
	},
	// look tells of the supervising namespaces.
	"test.look": func([]string) int {
		// An orphan that ends is nobody's child but the supervisor's.
		if err := exec.CommandContext(context.Background(), "sh", "-c", "sh -c 'sleep 0.01' & exit 0").Run(); err != nil {
			return fail(err)
		}
		tick := time.NewTicker(10 * time.Millisecond)
		for range 500 {
			<-tick.C
			t, err := readTable()
			if err != nil {
				return fail(err)
			}
			if len(t) == 2 {
				host, _ := os.Hostname()
				out, err := os.NewFile(3, "file").WriteString("file")
				fmt.Println(os.Getuid(), os.Getpid() == t[1].pid, host, out, err)
				return 0
			}
		}
		return fail(errors.New("zombies pile up"))
	},
	// devices gives everybody devices, in mounts of its own, and goes on as nobody.
	"test.devices": func(args []string) int {
		if err := openDevices(); err != nil {
			return fail(err)
		}
		cmd := stage.Command(context.Background(), "test.nobody", args...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.Env = []string{"PATH=" + defaultPath, "TMPDIR=" + args[0], "GORACE=atexit_sleep_ms=0"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if err := cmd.Run(); err != nil {
			return fail(err)
		}
		return 0
	},
	// nobody supervises test.userland without root.
	"test.nobody": func(args []string) int {
		if err := Able(); err != nil {
			return fail(err)
		}
		return supervise("test.userland", args...)
	},
	"test.userland": func(args []string) int {
		if err := userland(args[0]); err != nil {
			return fail(err)
		}
		fmt.Println("all is well")
		return 0
	},
}

func supervise(name string, args ...string) int {
	code, err := Supervise(context.Background(), Supervision{Stage: name, Args: args, Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil {
		return fail(err)
	}
	return code
}

// openDevices makes devices that everybody may use, and a disk of somebody else's.
func openDevices() error {
	if err := privateMounts(); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/dev/net", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for file, dev := range map[string]uint64{"/dev/net/tun": unix.Mkdev(10, 200), "/dev/net/fuse": unix.Mkdev(10, 229)} {
		if err := unix.Mknod(file, unix.S_IFCHR, int(dev)); err != nil {
			return err
		}
		if err := os.Chmod(file, 0o666); err != nil {
			return err
		}
	}
	if err := unix.Mount("/dev/net/fuse", "/dev/fuse", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0) // open as long as this process
	if err != nil {
		return err
	}
	if err := os.Mkdir("/dev/net/disk", 0o755); err != nil {
		return err
	}
	return unix.Mount("faultfs", "/dev/net/disk", "fuse.faultfs", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd))
}

// userland is what must work without root.
func userland(dir string) (err error) {
	ctx := context.Background()
	own, err := LabInterface(ctx, InterfaceConfig{
		Name: "lab0", Addr: netip.PrefixFrom(address(1), 16),
		Neighbors: map[netip.Addr]net.HardwareAddr{address(11): MAC(address(11))},
	})
	if err != nil {
		return err
	}
	clock := vclock.New()
	defer clock.Close()
	cfg := config("n1", 11, dir)
	cfg.Clock, cfg.ClockListener = true, clock.Serve
	h, err := Start(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.PowerOff(ctx), own.Close()) }()
	join(own.TAP(), h.TAP())
	if err := clock.Set(vclock.Offset{Jump: 24 * 365 * time.Hour}); err != nil {
		return err
	}
	for _, c := range []struct{ user, script, want string }{
		{"", "id -u; id -g", "0\n0\n"},
		{"nobody", "id -u; id -g; touch f $HOME/f $TMPDIR/f", "65534\n65534\n"},
		{"1234", "id -u; id -g", "1234\n1234\n"},
		{"", "hostname; tail -1 /etc/hosts", "n1\n10.77.0.12 n2.lab n2\n"},
		{"", "date +%Y", fmt.Sprintln(time.Now().Add(24 * 365 * time.Hour).Year())},
		{"nobody", "date +%Y", fmt.Sprintln(time.Now().Add(24 * 365 * time.Hour).Year())},
	} {
		var out bytes.Buffer
		p, err := h.Run(ctx, Process{Name: "sh", User: c.user, Argv: []string{"sh", "-c", c.script}, Stdout: &out, Stderr: &out})
		if err != nil {
			return err
		}
		if <-p.Done(); out.String() != c.want || p.Status() != (Exit{}) {
			return fmt.Errorf("%s as %q: %q, %v", c.script, c.user, out.String(), p.Status())
		}
	}
	if _, err = h.Run(ctx, Process{Name: "spin", User: "nobody", Argv: stage.Argv("test.spin")}); err != nil {
		return err
	}
	if err := h.Throttle(ctx, minShare); err != nil {
		return err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	for n := 0; h.Throttled() == 0; n++ {
		if <-tick.C; n == 500 {
			return errors.New("not throttled")
		}
	}
	if err := h.Throttle(ctx, 0); err != nil {
		return err
	}
	for range 2 {
		if n, err := h.Pause(ctx, "spin"); n != 1 || err != nil {
			return fmt.Errorf("paused %d, %w", n, err)
		}
		if n, err := h.Resume(ctx, ""); n != 1 || err != nil {
			return fmt.Errorf("resumed %d, %w", n, err)
		}
	}
	if n, err := h.Kill(ctx, "spin"); n != 1 || err != nil {
		return fmt.Errorf("killed %d, %w", n, err)
	}
	return h.PowerOff(ctx)
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func wait() int {
	fmt.Println("ready")
	for {
		_ = unix.Pause()
	}
}
