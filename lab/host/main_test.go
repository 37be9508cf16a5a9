package host

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast.dev/internal/labtest"
	"holdfast.dev/internal/stage"
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
		code, err := Supervise(context.Background(), Supervision{Stage: "test.lab", Args: args, Stdout: os.Stdout, Stderr: os.Stderr})
		if err != nil {
			return fail(err)
		}
		return code
	},
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
