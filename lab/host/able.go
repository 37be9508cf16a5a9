//go:build linux

package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ableTime bounds the trial.
const ableTime = 20 * time.Second

// fuseDevice serves filesystems.
const fuseDevice = "/dev/fuse"

// Able says why the lab cannot run here and what to do about it; nil if it can.
// It tries: namespaces, a network device, a filesystem and a host are made and
// go away again. The main function must have called stage.Run.
func Able() error {
	var errs []error
	for _, dev := range []struct{ path, module string }{{tunDevice, "tun"}, {fuseDevice, "fuse"}} {
		f, err := os.OpenFile(dev.path, os.O_RDWR, 0)
		if err != nil {
			errs = append(errs, deviceError(dev.path, dev.module, err))
			continue
		}
		_ = f.Close()
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), ableTime)
	defer cancel()
	var out bytes.Buffer
	code, err := Supervise(ctx, Supervision{Stage: stageAble, Stdout: &out, Stderr: &out, Signals: make(chan os.Signal), Grace: time.Second})
	switch {
	case err != nil:
		return fmt.Errorf("the lab cannot run here: %w", err)
	case code != 0:
		return fmt.Errorf("the lab cannot run here: %s", strings.TrimSpace(out.String()))
	}
	return nil
}

// deviceError explains why a device could not be opened.
func deviceError(path, module string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		return fmt.Errorf("the lab needs %s: load it with modprobe %s (in a container: add --device %s)", path, module, path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the lab needs %s: run as root, or let everybody use it with chmod 0666 %s", path, path)
	}
	return fmt.Errorf("the lab needs %s: %w", path, err)
}

// ableStage makes in the supervising namespaces what a lab needs.
func ableStage([]string) int {
	if err := try(); err != nil {
		_, _ = fmt.Fprintln(os.NewFile(2, "stderr"), err)
		return 1
	}
	return 0
}

func try() (err error) {
	dir, err := os.MkdirTemp("", "holdfast-able-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := tryFUSE(dir); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), ableTime)
	defer cancel()
	own, err := LabInterface(ctx, InterfaceConfig{Name: "lab0", Addr: netip.MustParsePrefix("10.77.0.1/16")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, own.Close()) }()
	h, err := Start(ctx, Config{Name: "n1", Addr: netip.MustParsePrefix("10.77.0.11/16"), Scratch: dir})
	if err != nil {
		return err
	}
	return h.PowerOff(ctx)
}

// tryFUSE mounts a filesystem that nobody serves, and unmounts it.
func tryFUSE(dir string) error {
	f, err := os.OpenFile(fuseDevice, os.O_RDWR, 0)
	if err != nil {
		return deviceError(fuseDevice, "fuse", err)
	}
	defer func() { _ = f.Close() }()
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", f.Fd())
	if err := unix.Mount("holdfast", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount a FUSE filesystem: %w", err)
	}
	return unix.Unmount(dir, unix.MNT_DETACH)
}
