package vclock

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// errGone says that a process ended, which is nobody's fault.
var errGone = errors.New("the process is gone")

// errOther says that a process does not belong to this clock.
var errOther = errors.New("the process is not under this clock")

// errMoved says that a process executed another program since its vDSO was
// looked for.
var errMoved = errors.New("its vDSO cannot be read")

// vdso is the vDSO of one process, open for reading and writing.
type vdso struct {
	mem  memory
	base int64
	size int
}

// memory is /proc/PID/mem.
type memory interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
}

// openVDSO finds the vDSO of a process. The caller closes it.
func openVDSO(pid int) (*vdso, error) {
	base, size, err := findVDSO(pid)
	if err != nil {
		return nil, err
	}
	return openAt(pid, base, size)
}

// reopenVDSO finds the vDSO of a process that may have been patched, and not its
// size, which takes much less. The caller closes it.
func reopenVDSO(pid int) (*vdso, error) {
	base, err := auxVDSO(pid)
	if err != nil {
		return nil, err
	}
	return openAt(pid, base, 0)
}

func openAt(pid int, base int64, size int) (*vdso, error) {
	mem, err := os.OpenFile(procPath(pid, "mem"), os.O_RDWR, 0)
	if err != nil {
		return nil, goneOr(err)
	}
	return &vdso{mem: mem, base: base, size: size}, nil
}

func (v *vdso) Close() { _ = v.mem.Close() }

func (v *vdso) read(b []byte, at int) error {
	n, err := v.mem.ReadAt(b, v.base+int64(at))
	switch {
	case n == len(b):
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, syscall.EIO):
		return errMoved
	}
	return goneOr(err)
}

func (v *vdso) write(b []byte, at int) error {
	n, err := v.mem.WriteAt(b, v.base+int64(at))
	switch {
	case n == len(b):
		return nil
	case errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EFAULT):
		return fmt.Errorf("%w (the kernel may forbid it: see proc_mem.force_override)", err)
	}
	return goneOr(err)
}

// image is the whole vDSO.
func (v *vdso) image() ([]byte, error) {
	b := make([]byte, v.size)
	return b, v.read(b, 0)
}

// patch puts the shim in, and the jumps to it. No thread of the process may be
// at the beginning of a hooked function, or run.
func (v *vdso) patch(p plan, id uint64, s settings) error {
	if err := v.write(p.code(id, s), p.shim); err != nil {
		return err
	}
	for _, h := range p.hooks {
		if err := v.write(jump(h.at, p.shim+h.target), h.at); err != nil {
			return err
		}
	}
	return nil
}

// update changes the settings of a patched process while it runs; changed is
// false when they were these already. Only one at a time may update a process.
func (v *vdso) update(at int, id uint64, s settings) (changed bool, err error) {
	var data [dataSize]byte
	le := binary.LittleEndian
	if err := v.read(data[:], at); err != nil {
		return false, err
	}
	if le.Uint64(data[dataMark:]) != shimMark || le.Uint64(data[dataID:]) != id {
		return false, errOther
	}
	generation := le.Uint64(data[dataGeneration:])
	now := dataSettings + int(generation&1)*settingsSize
	if bytes.Equal(data[now:now+settingsSize], s.bytes()) {
		return false, nil
	}
	next := dataSettings + int((generation+1)&1)*settingsSize
	if err := v.write(s.bytes(), at+next); err != nil {
		return false, err
	}
	return true, v.write(le.AppendUint64(nil, generation+1), at+dataGeneration)
}

// findVDSO reads where the vDSO of a process is.
func findVDSO(pid int) (base int64, size int, err error) {
	f, err := os.Open(procPath(pid, "maps"))
	if err != nil {
		return 0, 0, goneOr(err)
	}
	defer func() { _ = f.Close() }()
	empty := true
	for lines := bufio.NewScanner(f); lines.Scan(); empty = false {
		line, ok := bytes.CutSuffix(lines.Bytes(), []byte("[vdso]"))
		if !ok {
			continue
		}
		from, rest, _ := strings.Cut(string(line), "-")
		to, _, _ := strings.Cut(rest, " ")
		start, err1 := strconv.ParseInt(from, 16, 64)
		end, err2 := strconv.ParseInt(to, 16, 64)
		if err1 != nil || err2 != nil || end <= start || end-start > 1<<20 {
			return 0, 0, errBadVDSO
		}
		return start, int(end - start), nil
	}
	if empty { // a zombie has no memory
		return 0, 0, errGone
	}
	return 0, 0, errNoVDSO
}

// auxVDSO reads where the kernel told a 64-bit process that its vDSO is.
func auxVDSO(pid int) (int64, error) {
	const sysinfoEHDR = 33
	aux, err := os.ReadFile(procPath(pid, "auxv"))
	if err != nil {
		return 0, goneOr(err)
	}
	if len(aux) == 0 { // a zombie has no memory
		return 0, errGone
	}
	for ; len(aux) >= 16; aux = aux[16:] {
		if binary.LittleEndian.Uint64(aux) == sysinfoEHDR {
			return int64(binary.LittleEndian.Uint64(aux[8:])), nil //nolint:gosec // a user address
		}
	}
	return 0, errNoVDSO
}

// process is what /proc says about one.
type process struct {
	leader  int // its process ID, also when asked about a thread
	parent  int
	filters int // seccomp filters
	name    string
	zombie  bool
}

func readProcess(pid int) (process, error) {
	b, err := os.ReadFile(procPath(pid, "status"))
	if err != nil {
		return process{}, goneOr(err)
	}
	var p process
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Name":
			p.name = value
		case "State":
			p.zombie = strings.HasPrefix(value, "Z") || strings.HasPrefix(value, "X")
		case "Tgid":
			p.leader, err = strconv.Atoi(value)
		case "PPid":
			p.parent, err = strconv.Atoi(value)
		case "Seccomp_filters":
			p.filters, err = strconv.Atoi(value)
		}
		if err != nil {
			return process{}, fmt.Errorf("status: %w", err)
		}
	}
	return p, nil
}

// space names the pid namespace of a process.
func space(pid int) (string, error) {
	s, err := os.Readlink(procPath(pid, "ns/pid"))
	return s, goneOr(err)
}

// numbers lists the entries of a directory that are numbers: processes, threads.
func numbers(dir string) ([]int, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, goneOr(err)
	}
	defer func() { _ = f.Close() }()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, goneOr(err)
	}
	var ns []int
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil {
			ns = append(ns, n)
		}
	}
	return ns, nil
}

func procPath(pid int, name string) string {
	return "/proc/" + strconv.Itoa(pid) + "/" + name
}

// goneOr tells the end of a process from other errors.
func goneOr(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ESRCH):
		return errGone
	}
	return err
}
