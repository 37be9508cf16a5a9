//go:build linux

package faultfs

import (
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// forever is how long the kernel may believe what it was told: nothing changes
// but by its requests, and where a fault does it tells.
const forever = time.Hour

// mounted serves the volume on one mount of it, until the power fails.
type mounted struct {
	fuse.RawFileSystem
	d      *daemon
	server *fuse.Server
	off    chan struct{} // closed under d.mu: the power failed

	// Under d.mu.
	handle  uint64
	listing map[uint64]uint64 // where a directory ended when listing it began, by handle
}

func (m *mounted) String() string { return "faultfs" }

// mount puts the volume on its mount point.
func (d *daemon) mount() (*mounted, error) {
	m := &mounted{RawFileSystem: fuse.NewDefaultRawFileSystem(), d: d, off: make(chan struct{}), listing: map[uint64]uint64{}}
	server, err := fuse.NewServer(m, d.Mount, &fuse.MountOptions{
		AllowOther: true, DirectMountStrict: true, FsName: "faultfs", Name: "faultfs",
		Options:       []string{"default_permissions"},
		MaxWrite:      1 << 20,
		MaxBackground: 64,
		// The kernel keeps pages until it is told that they changed.
		ExplicitDataCacheControl: true,
		// Without it every write asks for security.capability first.
		ExtraCapabilities: fuse.CAP_HANDLE_KILLPRIV_V2,
		// The daemon has to see every byte.
		DisabledCapabilities: fuse.CAP_PASSTHROUGH | fuse.CAP_WRITEBACK_CACHE,
		Logger:               d.log,
	})
	if err != nil {
		return nil, err
	}
	m.server = server
	d.serving.Go(server.Serve)
	return m, server.WaitMount()
}

// ask is one request.
type ask struct {
	op      operation
	caller  *fuse.InHeader // its node is the directory where there is a name
	cancel  <-chan struct{}
	name    string
	dir2    uint64 // where a rename leads
	name2   string
	need    int64 // bytes to be written
	writing bool  // open for writing
}

// gate counts a request, lets the rules judge it, and holds it up as they say.
func (m *mounted) gate(a ask) (verdict, fuse.Status) {
	d := m.d
	d.ops[a.op].Add(1)
	var v verdict
	if d.rules.any.Load() {
		d.mu.Lock()
		paths := []string{d.v.path(a.caller.NodeId)}
		if a.name != "" {
			paths[0] = below(paths[0], a.name)
		}
		if a.name2 != "" {
			paths = append(paths, below(d.v.path(a.dir2), a.name2))
		}
		d.mu.Unlock()
		v = d.rules.judge(a.op, paths, a.need, a.writing)
	}
	if syncs := a.op == opFsync || a.op == opFdatasync || a.op == opFsyncdir; syncs {
		if n := d.fsyncs.Add(1); d.FsyncLatency > 0 {
			v.delay += lognormal(random{d.Seed, uint64(n)}, d.FsyncLatency)
		}
	}
	for _, stall := range v.stalls {
		if s := m.wait(a, stall, nil); s != fuse.OK {
			return v, s
		}
	}
	if v.delay > 0 {
		timer := time.NewTimer(v.delay)
		defer timer.Stop()
		if s := m.wait(a, nil, timer.C); s != fuse.OK {
			return v, s
		}
	}
	if v.err != 0 && !v.sync {
		return v, fuse.Status(v.err)
	}
	return v, fuse.OK
}

func below(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// wait waits for an event, unless the power fails or the caller is killed. The
// kernel says only once that a signal came, whichever it was, and nothing of
// what a process does on its way out; so from the first sign on, or from the
// start of what may take forever, the caller is watched.
func (m *mounted) wait(a ask, done <-chan struct{}, timer <-chan time.Time) fuse.Status {
	var look *time.Ticker
	var tick <-chan time.Time
	watch := func() {
		look = time.NewTicker(20 * time.Millisecond)
		tick = look.C
	}
	defer func() {
		if look != nil {
			look.Stop()
		}
	}()
	if done != nil {
		watch()
	}
	cancel := a.cancel
	for {
		select {
		case <-done:
			return fuse.OK
		case <-timer:
			return fuse.OK
		case <-m.off:
			return fuse.EIO
		case <-cancel:
			if cancel = nil; look == nil {
				watch()
			}
		case <-tick:
		}
		if look != nil && m.orphaned(a.caller.Pid) {
			return fuse.EINTR
		}
	}
}

// orphaned reports whether nobody waits for a request any more: the thread that
// made it is killed, or it is the kernel's own, which writes back a memory map,
// and so are all processes that use the mount.
func (m *mounted) orphaned(tid uint32) bool {
	if tid != 0 {
		return killed(int(tid))
	}
	dev, err := deviceOf(m.d.Mount)
	return err == nil && !slices.ContainsFunc(usersOf(dev), func(u process) bool { return !killed(u.pid) })
}

// enter locks the volume for a request, if the power is on.
func (m *mounted) enter() bool {
	m.d.mu.Lock()
	select {
	case <-m.off:
		m.d.mu.Unlock()
		return false
	default:
		return true
	}
}

// do gates a request and carries it out under the lock.
func (m *mounted) do(a ask, f func(v *volume, now int64) syscall.Errno) fuse.Status {
	if _, s := m.gate(a); s != fuse.OK {
		return s
	}
	return m.locked(f)
}

func (m *mounted) locked(f func(v *volume, now int64) syscall.Errno) fuse.Status {
	if !m.enter() {
		return fuse.EIO
	}
	defer m.d.mu.Unlock()
	return fuse.Status(f(m.d.v, m.d.now()))
}

// on finds the inode of a request.
func (m *mounted) on(a ask, f func(v *volume, n *inode, now int64) syscall.Errno) fuse.Status {
	return m.do(a, func(v *volume, now int64) syscall.Errno {
		n := v.cache.inodes[a.caller.NodeId]
		if n == nil {
			return syscall.ENOENT
		}
		return f(v, n, now)
	})
}

func fill(n *inode, a *fuse.Attr) {
	a.Ino, a.Mode, a.Nlink = n.ino, n.mode, n.nlink()
	a.Size, a.Blocks, a.Blksize = uint64(n.size), uint64(n.data.n*pageSize/512), pageSize
	a.Uid, a.Gid, a.Rdev = n.uid, n.gid, n.rdev
	a.Atime, a.Atimensec = uint64(n.atime/1e9), uint32(n.atime%1e9)
	a.Mtime, a.Mtimensec = uint64(n.mtime/1e9), uint32(n.mtime%1e9)
	a.Ctime, a.Ctimensec = uint64(n.ctime/1e9), uint32(n.ctime%1e9)
}

func fillEntry(n *inode, out *fuse.EntryOut) {
	out.NodeId, out.Generation = n.ino, 1 // inode numbers are never used again
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	fill(n, &out.Attr)
}

func (m *mounted) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	return m.do(ask{op: opLookup, caller: h, cancel: cancel, name: name}, func(v *volume, _ int64) syscall.Errno {
		n, e := v.lookup(h.NodeId, name)
		if e == syscall.ENOENT && v.cache.inodes[h.NodeId] != nil {
			out.SetEntryTimeout(forever) // and node 0: there is none
			return 0
		}
		if e == 0 {
			fillEntry(n, out)
		}
		return e
	})
}

func (m *mounted) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	return m.on(ask{op: opGetattr, caller: &in.InHeader, cancel: cancel}, func(_ *volume, n *inode, _ int64) syscall.Errno {
		out.SetTimeout(forever)
		fill(n, &out.Attr)
		return 0
	})
}

func (m *mounted) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	a := ask{op: opSetattr, caller: &in.InHeader, cancel: cancel}
	size, resize := in.GetSize()
	if resize {
		a.op = opTruncate
	}
	return m.on(a, func(v *volume, n *inode, now int64) syscall.Errno {
		if resize {
			if e := v.truncate(n, int64(size), now); e != 0 {
				return e
			}
			m.dropPrivileges(n, in.Valid&fuse.FATTR_KILL_SUIDGID != 0, now)
		}
		const others = fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_GID | fuse.FATTR_ATIME | fuse.FATTR_MTIME | fuse.FATTR_CTIME
		if in.Valid&others != 0 {
			v.setAttr(n, now, func(a *attr) { change(a, in, now) })
			if in.Valid&(fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
				m.dropPrivileges(n, in.Valid&fuse.FATTR_KILL_SUIDGID != 0, now)
			}
		}
		out.SetTimeout(forever)
		fill(n, &out.Attr)
		return 0
	})
}

func change(a *attr, in *fuse.SetAttrIn, now int64) {
	if mode, ok := in.GetMode(); ok {
		a.mode = mode
	}
	if uid, ok := in.GetUID(); ok {
		a.uid = uid
	}
	if gid, ok := in.GetGID(); ok {
		a.gid = gid
	}
	if in.Valid&fuse.FATTR_ATIME != 0 {
		if a.atime = int64(in.Atime)*1e9 + int64(in.Atimensec); in.Valid&fuse.FATTR_ATIME_NOW != 0 {
			a.atime = now
		}
	}
	if in.Valid&fuse.FATTR_MTIME != 0 {
		if a.mtime = int64(in.Mtime)*1e9 + int64(in.Mtimensec); in.Valid&fuse.FATTR_MTIME_NOW != 0 {
			a.mtime = now
		}
	}
}

// dropPrivileges clears what a change of a file by somebody without privileges
// has to clear.
func (m *mounted) dropPrivileges(n *inode, bits bool, now int64) {
	if !n.isReg() {
		return
	}
	if kill := suid(n.mode); bits && kill != 0 {
		m.d.v.setAttr(n, now, func(a *attr) { a.mode &^= kill })
	}
	_ = m.d.v.setXattr(n, "security.capability", nil, 0, now) // there is none, mostly
}

// suid is the bits of a mode that lend privileges.
func suid(mode uint32) uint32 {
	kill := mode & syscall.S_ISUID
	if mode&(syscall.S_ISGID|syscall.S_IXGRP) == syscall.S_ISGID|syscall.S_IXGRP {
		kill |= syscall.S_ISGID
	}
	return kill
}

func by(h *fuse.InHeader, mode, rdev uint32) attr {
	return attr{mode: mode, uid: h.Uid, gid: h.Gid, rdev: rdev}
}

// add makes a file of any type.
func (m *mounted) add(o operation, cancel <-chan struct{}, h *fuse.InHeader, name string, a attr, target string, out *fuse.EntryOut) fuse.Status {
	return m.do(ask{op: o, caller: h, cancel: cancel, name: name}, func(v *volume, now int64) syscall.Errno {
		n, e := v.create(h.NodeId, name, a, target, now)
		if e == 0 {
			fillEntry(n, out)
		}
		return e
	})
}

func (m *mounted) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return m.add(opMknod, cancel, &in.InHeader, name, by(&in.InHeader, in.Mode, in.Rdev), "", out)
}

func (m *mounted) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return m.add(opMkdir, cancel, &in.InHeader, name, by(&in.InHeader, in.Mode&0o7777|syscall.S_IFDIR, 0), "", out)
}

func (m *mounted) Symlink(cancel <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return m.add(opSymlink, cancel, h, name, by(h, syscall.S_IFLNK|0o777, 0), target, out)
}

func (m *mounted) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	return m.do(ask{op: opCreateFile, caller: &in.InHeader, cancel: cancel, name: name}, func(v *volume, now int64) syscall.Errno {
		n, e := v.create(in.NodeId, name, by(&in.InHeader, in.Mode&0o7777|syscall.S_IFREG, 0), "", now)
		if e == 0 {
			v.opened(n)
			fillEntry(n, &out.EntryOut)
			out.OpenFlags = fuse.FOPEN_KEEP_CACHE
		}
		return e
	})
}

func (m *mounted) Tmpfile(cancel <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	return m.on(ask{op: opCreateFile, caller: &in.InHeader, cancel: cancel}, func(v *volume, d *inode, now int64) syscall.Errno {
		a := by(&in.InHeader, in.Mode&0o7777|syscall.S_IFREG, 0)
		if d.mode&syscall.S_ISGID != 0 {
			a.gid = d.gid
		}
		n := v.bear(a, "", now)
		v.opened(n)
		fillEntry(n, &out.EntryOut)
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE
		return 0
	})
}

func (m *mounted) Unlink(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return m.do(ask{op: opUnlink, caller: h, cancel: cancel, name: name}, func(v *volume, now int64) syscall.Errno {
		return v.remove(h.NodeId, name, false, now)
	})
}

func (m *mounted) Rmdir(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return m.do(ask{op: opRmdir, caller: h, cancel: cancel, name: name}, func(v *volume, now int64) syscall.Errno {
		return v.remove(h.NodeId, name, true, now)
	})
}

func (m *mounted) Rename(cancel <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	a := ask{op: opRename, caller: &in.InHeader, cancel: cancel, name: oldName, dir2: in.Newdir, name2: newName}
	return m.do(a, func(v *volume, now int64) syscall.Errno {
		return v.rename(in.NodeId, oldName, in.Newdir, newName, in.Flags, now)
	})
}

func (m *mounted) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	return m.do(ask{op: opLink, caller: &in.InHeader, cancel: cancel, name: name}, func(v *volume, now int64) syscall.Errno {
		n, e := v.link(in.Oldnodeid, in.NodeId, name, now)
		if e == 0 {
			fillEntry(n, out)
		}
		return e
	})
}

func (m *mounted) Readlink(cancel <-chan struct{}, h *fuse.InHeader) (target []byte, s fuse.Status) {
	s = m.on(ask{op: opReadlink, caller: h, cancel: cancel}, func(_ *volume, n *inode, _ int64) syscall.Errno {
		target = []byte(n.target)
		return 0
	})
	return target, s
}

func (m *mounted) StatFs(cancel <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	return m.do(ask{op: opStatfs, caller: h, cancel: cancel}, func(v *volume, _ int64) syscall.Errno {
		const files = 1 << 20
		free := uint64(max(0, v.quota-v.used)) / pageSize
		*out = fuse.StatfsOut{
			Blocks: uint64(v.quota) / pageSize, Bfree: free, Bavail: free, Bsize: pageSize, Frsize: pageSize,
			Files: files, Ffree: files - min(files, uint64(len(v.cache.inodes))), NameLen: maxName,
		}
		return 0
	})
}

// counted is an atomic counter for each operation.
type counted [operations]atomic.Int64
