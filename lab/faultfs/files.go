//go:build linux

package faultfs

import (
	"io"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func (m *mounted) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	a := ask{op: opOpen, caller: &in.InHeader, cancel: cancel, writing: in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY}
	return m.on(a, func(v *volume, n *inode, _ int64) syscall.Errno {
		v.opened(n)
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE
		return 0
	})
}

func (m *mounted) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return m.on(ask{op: opOpen, caller: &in.InHeader, cancel: cancel}, func(v *volume, n *inode, _ int64) syscall.Errno {
		v.opened(n)
		m.handle++
		out.Fh = m.handle
		return 0
	})
}

func (m *mounted) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { m.ReleaseDir(in) }

func (m *mounted) ReleaseDir(in *fuse.ReleaseIn) {
	m.locked(func(v *volume, _ int64) syscall.Errno {
		delete(m.listing, in.Fh)
		if n := v.cache.inodes[in.NodeId]; n != nil && n.opens > 0 {
			v.closed(n)
		}
		return 0
	})
}

func (m *mounted) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	return m.locked(func(v *volume, now int64) syscall.Errno {
		if n := v.cache.inodes[in.NodeId]; n != nil {
			v.flushed(n, now)
		}
		return 0
	})
}

func (m *mounted) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	verdict, s := m.gate(ask{op: opRead, caller: &in.InHeader, cancel: cancel})
	if s != fuse.OK {
		return nil, s
	}
	s = m.locked(func(v *volume, _ int64) syscall.Errno {
		n := v.cache.inodes[in.NodeId]
		if n == nil {
			return syscall.ENOENT
		}
		buf = buf[:v.read(n, int64(in.Offset), buf[:min(len(buf), int(in.Size))])]
		return 0
	})
	if s != fuse.OK {
		return nil, s
	}
	if verdict.flip && len(buf) > 0 {
		bit := random{verdict.mishap.seed, 0}.below("bit", uint64(len(buf))*8)
		buf[bit/8] ^= 1 << (bit % 8)
		m.d.rules.touch(verdict.rule)
	}
	m.d.bytesRead.Add(int64(len(buf)))
	return fuse.ReadResultData(buf), fuse.OK
}

func (m *mounted) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	verdict, s := m.gate(ask{op: opWrite, caller: &in.InHeader, cancel: cancel, need: int64(len(data))})
	if s != fuse.OK {
		return 0, s
	}
	s = m.locked(func(v *volume, now int64) syscall.Errno {
		n := v.cache.inodes[in.NodeId]
		if n == nil {
			return syscall.ENOENT
		}
		hit, e := v.write(n, int64(in.Offset), data, verdict.mishap, now)
		if e != 0 {
			return e
		}
		if hit {
			m.d.rules.touch(verdict.rule)
		}
		if in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
			m.dropPrivileges(n, true, now)
		}
		return 0
	})
	if s != fuse.OK {
		return 0, s
	}
	m.d.bytesWritten.Add(int64(len(data)))
	return uint32(len(data)), fuse.OK
}

func (m *mounted) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	a := ask{op: opFsync, caller: &in.InHeader, cancel: cancel}
	dataOnly := in.FsyncFlags&1 != 0
	if dataOnly {
		a.op = opFdatasync
	}
	verdict, s := m.gate(a)
	if s != fuse.OK {
		return s
	}
	return m.locked(func(v *volume, _ int64) syscall.Errno {
		if verdict.err != 0 {
			v.failSync(in.NodeId)
			return verdict.err
		}
		return v.sync(in.NodeId, dataOnly)
	})
}

func (m *mounted) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return m.do(ask{op: opFsyncdir, caller: &in.InHeader, cancel: cancel}, func(v *volume, _ int64) syscall.Errno {
		return v.syncDir(in.NodeId)
	})
}

func (m *mounted) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	a := ask{op: opFallocate, caller: &in.InHeader, cancel: cancel, need: int64(in.Length)}
	return m.on(a, func(v *volume, n *inode, now int64) syscall.Errno {
		return v.allocate(n, in.Mode, int64(in.Offset), int64(in.Length), now)
	})
}

func (m *mounted) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (copied uint32, s fuse.Status) {
	a := ask{op: opCopy, caller: &in.InHeader, cancel: cancel, need: int64(min(in.Len, 1<<20))}
	s = m.on(a, func(v *volume, from *inode, now int64) syscall.Errno {
		to := v.cache.inodes[in.NodeIdOut]
		if to == nil {
			return syscall.ENOENT
		}
		k, e := v.copyRange(from, int64(in.OffIn), to, int64(in.OffOut), int64(min(in.Len, 1<<30)), now)
		copied = uint32(k)
		return e
	})
	return copied, s
}

func (m *mounted) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	return m.locked(func(v *volume, _ int64) syscall.Errno {
		n := v.cache.inodes[in.NodeId]
		if n == nil {
			return syscall.ENOENT
		}
		switch in.Whence {
		case unix.SEEK_DATA, unix.SEEK_HOLE:
			off, ok := n.data.seek(int64(in.Offset), n.size, in.Whence == unix.SEEK_HOLE)
			if !ok || int64(in.Offset) >= n.size {
				return syscall.ENXIO
			}
			out.Offset = uint64(off)
		case io.SeekStart, io.SeekCurrent:
			out.Offset = in.Offset
		case io.SeekEnd:
			out.Offset = uint64(n.size) + in.Offset
		default:
			return syscall.EINVAL
		}
		return 0
	})
}

// readable is how an attribute or a list of them is answered.
func readable(dest, value []byte) (uint32, fuse.Status) {
	if len(dest) < len(value) {
		return uint32(len(value)), fuse.ERANGE
	}
	copy(dest, value)
	return uint32(len(value)), fuse.OK
}

func (m *mounted) GetXAttr(cancel <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (size uint32, s fuse.Status) {
	var value []byte
	if s = m.on(ask{op: opGetxattr, caller: h, cancel: cancel}, func(_ *volume, n *inode, _ int64) syscall.Errno {
		found, ok := n.xattr[name]
		if !ok {
			return syscall.ENODATA
		}
		value = found
		return 0
	}); s != fuse.OK {
		return 0, s
	}
	return readable(dest, value)
}

func (m *mounted) ListXAttr(cancel <-chan struct{}, h *fuse.InHeader, dest []byte) (size uint32, s fuse.Status) {
	var list strings.Builder
	if s = m.on(ask{op: opGetxattr, caller: h, cancel: cancel}, func(_ *volume, n *inode, _ int64) syscall.Errno {
		for _, name := range n.xattrs() {
			list.WriteString(name)
			list.WriteByte(0)
		}
		return 0
	}); s != fuse.OK {
		return 0, s
	}
	return readable(dest, []byte(list.String()))
}

func (m *mounted) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	if value == nil {
		value = []byte{}
	}
	return m.on(ask{op: opSetxattr, caller: &in.InHeader, cancel: cancel, need: int64(len(value))}, func(v *volume, n *inode, now int64) syscall.Errno {
		return v.setXattr(n, name, value, in.Flags, now)
	})
}

func (m *mounted) RemoveXAttr(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return m.on(ask{op: opSetxattr, caller: h, cancel: cancel}, func(v *volume, n *inode, now int64) syscall.Errno {
		return v.setXattr(n, name, nil, 0, now)
	})
}

// list calls add for the entries of a directory after a position until there is
// no room. What comes while it is listed does not show, so that who renames what
// it finds comes to an end.
func (m *mounted) list(cancel <-chan struct{}, in *fuse.ReadIn, add func(e fuse.DirEntry, n *inode) bool) fuse.Status {
	return m.on(ask{op: opReaddir, caller: &in.InHeader, cancel: cancel}, func(v *volume, d *inode, _ int64) syscall.Errno {
		if d.dir == nil {
			return syscall.ENOTDIR
		}
		if in.Offset == 0 {
			m.listing[in.Fh] = d.dir.next
		}
		up := d.parent
		if d.ino == rootIno {
			up = rootIno
		}
		dots := [...]fuse.DirEntry{{Name: ".", Ino: d.ino, Off: 1}, {Name: "..", Ino: up, Off: 2}}
		for _, dot := range dots {
			if dot.Mode = syscall.S_IFDIR; dot.Off > in.Offset && !add(dot, nil) {
				return 0
			}
		}
		for _, s := range d.dir.after(in.Offset) {
			if s.cookie >= m.listing[in.Fh] {
				break
			}
			if n := v.cache.inodes[s.ino]; n != nil && !add(fuse.DirEntry{Name: s.name, Ino: s.ino, Mode: n.mode, Off: s.cookie}, n) {
				return 0
			}
		}
		return 0
	})
}

func (m *mounted) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return m.list(cancel, in, func(e fuse.DirEntry, _ *inode) bool { return out.AddDirEntry(e) })
}

func (m *mounted) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return m.list(cancel, in, func(e fuse.DirEntry, n *inode) bool {
		entry := out.AddDirLookupEntry(e)
		if entry != nil && n != nil {
			fillEntry(n, entry)
		}
		return entry != nil
	})
}
