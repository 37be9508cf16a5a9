//go:build linux

package faultfs

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"syscall"
)

const (
	typeMask    = syscall.S_IFMT
	maxFileSize = 1 << 42 // 4 TiB, sparse
	maxName     = 255

	// Beyond these the oldest of what is pending is written back, as a kernel
	// does that runs short of clean pages.
	defaultMaxOps   = 1 << 20
	defaultMaxBytes = 256 << 20
)

// volume is the filesystem without the kernel: what processes see, what the disk
// has, and the operations between the two. It does no I/O, has no clock (now is
// nanoseconds since 1970, and does not go backwards) and no locks.
type volume struct {
	graph
	cache, disk *image
	nextIno     uint64
	quota, used int64
	maxOps      int
	maxBytes    int64
	writtenBack int64
	backTo      uint64 // what was written back: all up to here
}

func newVolume(root attr, quota int64) *volume {
	n := newInode(rootIno, root, "")
	v := &volume{
		graph: newGraph(0), nextIno: rootIno + 1, quota: quota, maxOps: defaultMaxOps, maxBytes: defaultMaxBytes,
		cache: &image{inodes: map[uint64]*inode{rootIno: n}},
	}
	v.disk = v.cache.clone()
	return v
}

// emit adds an op of the inode n, and one of the metadata if it is that.
func (v *volume) emit(n *inode, now int64, o *op) {
	o.at = now
	if n != nil {
		o.ino = n.ino
	}
	v.add(o)
	if n != nil {
		n.touched = v.seq
		if o.kind == opSize || o.kind == opZero || o.kind == opCreate || o.kind == opData && o.end != 0 {
			n.resized = v.seq
		}
	}
}

// relieve writes back the oldest operations when there are too many.
func (v *volume) relieve() {
	if v.live <= v.maxOps && v.bytes <= v.maxBytes {
		return
	}
	var old []*op
	live, size := v.live, v.bytes
	for _, o := range v.log {
		if live <= v.maxOps-v.maxOps/32 && size <= v.maxBytes-v.maxBytes/32 {
			break
		}
		if !o.done {
			old = append(old, o)
			live--
			size -= o.bytes()
		}
	}
	v.writtenBack += int64(len(old))
	v.backTo = old[len(old)-1].seq
	v.commit(v.backTo)
	v.flush(old)
}

// flush makes ops durable.
func (v *volume) flush(ops []*op) {
	var named []uint64
	files := map[uint64]map[int64]struct{}{}
	for _, o := range ops {
		if o.done {
			continue
		}
		v.disk.apply(o, true, true)
		switch {
		case o.kind == opNames:
			for _, e := range o.meta.entries {
				named = append(named, e.ino, e.was)
			}
		case o.kind == opData && o.full == nil:
			if files[o.ino] == nil {
				files[o.ino] = map[int64]struct{}{}
			}
			files[o.ino][o.off/pageSize] = struct{}{}
		}
	}
	v.finish(ops)
	for ino, pages := range files {
		v.merge(ino, pages)
	}
	for _, ino := range named {
		v.reap(ino)
	}
}

// merge lets cache and disk share pages that were written in pieces and are
// full now.
func (v *volume) merge(ino uint64, pages map[int64]struct{}) {
	c, d := v.cache.inodes[ino], v.disk.inodes[ino]
	if c == nil || d == nil {
		return
	}
	for i := range pages {
		if (i+1)*pageSize > c.size {
			continue
		}
		if p, q := c.data.get(i), d.data.get(i); p != nil && q != nil && p != q && *p == *q {
			d.data.put(i, c.data.share(i), false)
		}
	}
}

// sync is fsync of a file: its data, size and attributes. fdatasync, which is
// for data only, makes a journal commit nothing when the data lies where it lay.
func (v *volume) sync(ino uint64, dataOnly bool) syscall.Errno {
	n := v.cache.inodes[ino]
	if n == nil {
		return syscall.ENOENT
	}
	commit := n.touched > v.journal
	var ops []*op
	if nd := v.nodes[ino]; nd != nil {
		ops = slices.Clone(nd.ops)
	}
	if dataOnly {
		commit = n.resized > v.journal
		d := v.disk.inodes[ino]
		for _, o := range ops {
			if o.kind != opAttr && o.kind != opXattr && (o.kind != opData || o.end != 0 || d == nil || d.data.get(o.off/pageSize) == nil) {
				commit = true
			}
		}
	}
	v.flush(ops)
	if commit {
		v.commit(v.seq)
	}
	return 0
}

// failSync is an fsync that fails as ext4 lets it fail: once, and what was
// written since the last one counts as clean though the disk does not have it.
func (v *volume) failSync(ino uint64) {
	n, nd := v.cache.inodes[ino], v.nodes[ino]
	if n == nil || nd == nil {
		return
	}
	var lost []*op
	for _, o := range nd.ops {
		if o.kind == opData {
			n.diverge(o.off / pageSize)
			lost = append(lost, o)
		}
	}
	v.finish(lost)
}

// syncDir is fsync of a directory: its entries, the inodes that they lead to,
// and its own attributes.
func (v *volume) syncDir(ino uint64) syscall.Errno {
	n := v.cache.inodes[ino]
	if n == nil {
		return syscall.ENOENT
	}
	commit := n.touched > v.journal
	if nd := v.nodes[ino]; nd != nil {
		ops := with(slices.Concat(nd.ops, nd.names))
		for _, o := range ops {
			if o.kind == opNames {
				ops = append(ops, v.births(o)...)
			}
		}
		slices.SortFunc(ops, bySeq)
		v.flush(slices.Compact(ops))
	}
	if commit {
		v.commit(v.seq)
	}
	return 0
}

// births are the pending creations of what an op's entries lead to, and are in.
func (v *volume) births(o *op) (ops []*op) {
	for _, e := range o.meta.entries {
		for _, ino := range [...]uint64{e.ino, e.dir} {
			if n := v.nodes[ino]; n != nil && len(n.ops) > 0 && n.ops[0].kind == opCreate {
				ops = append(ops, n.ops[0])
			}
		}
	}
	return ops
}

// syncAll makes everything durable.
func (v *volume) syncAll() {
	v.commit(v.seq)
	v.flush(slices.Clone(v.log))
}

// commit is what a journal of metadata does: everything up to seq is durable
// where there is one.
func (v *volume) commit(seq uint64) {
	v.journal = max(v.journal, seq)
	keep := v.zombies[:0]
	var gone []*op
	for _, z := range v.zombies {
		if z.since > v.journal {
			keep = append(keep, z)
		} else if n := v.nodes[z.ino]; n != nil {
			for _, o := range n.ops {
				if o.kind != opCreate {
					gone = append(gone, o)
				}
			}
		}
	}
	v.zombies = keep
	v.finish(gone)
}

// free forgets an inode that has no name and that nobody has open.
func (v *volume) free(n *inode) {
	if n.links > 0 || n.opens > 0 || n.ino == rootIno {
		return
	}
	delete(v.cache.inodes, n.ino)
	v.used -= n.data.n * pageSize
	if nd := v.nodes[n.ino]; nd != nil && !v.annihilate(nd) {
		v.zombies = append(v.zombies, zombie{n.ino, v.seq})
	}
	v.reap(n.ino)
}

// annihilate drops everything about an inode that came and went within one
// transaction of the journal: a temporary file. It reports whether it was one.
func (v *volume) annihilate(n *node) bool {
	if len(n.ops) == 0 || n.ops[0].kind != opCreate || n.ops[0].seq <= v.journal || len(n.names) > 0 {
		return false
	}
	switch len(n.named) {
	case 0: // never had a name
	case 2:
		a, b := n.named[0], n.named[1]
		if len(a.meta.entries) != 1 || len(b.meta.entries) != 1 || a.seq != n.ops[0].seq+1 ||
			a.meta.entries[0].dir != b.meta.entries[0].dir || a.meta.entries[0].name != b.meta.entries[0].name {
			return false
		}
	default:
		return false
	}
	v.finish(slices.Concat(n.ops, n.named))
	return true
}

// reap forgets an inode of the disk that nothing can bring back.
func (v *volume) reap(ino uint64) {
	if ino == 0 || ino == rootIno || v.cache.inodes[ino] != nil {
		return
	}
	nd := v.nodes[ino]
	if nd != nil && len(nd.named) > 0 {
		return
	}
	if d := v.disk.inodes[ino]; d != nil {
		if d.links > 0 {
			return
		}
		delete(v.disk.inodes, ino)
	}
	if nd != nil {
		v.finish(slices.Concat(nd.ops, nd.names))
	}
}

// dirOf returns a directory to look a name up in.
func (v *volume) dirOf(dir uint64, name string) (*inode, syscall.Errno) {
	d := v.cache.inodes[dir]
	switch {
	case d == nil:
		return nil, syscall.ENOENT
	case d.dir == nil:
		return nil, syscall.ENOTDIR
	case len(name) > maxName:
		return nil, syscall.ENAMETOOLONG
	}
	return d, 0
}

func (v *volume) lookup(dir uint64, name string) (*inode, syscall.Errno) {
	d, e := v.dirOf(dir, name)
	if e != 0 {
		return nil, e
	}
	if n := v.cache.inodes[d.dir.get(name)]; n != nil {
		return n, 0
	}
	return nil, syscall.ENOENT
}

// names changes entries, in the cache and as one pending operation.
func (v *volume) names(now int64, m *meta) {
	for i := range m.entries {
		e := &m.entries[i]
		d := v.cache.inodes[e.dir]
		e.was = d.dir.get(e.name)
		if old := v.cache.inodes[e.was]; old != nil {
			old.links--
			old.ctime = now
			if old.isDir() {
				d.subdirs--
			}
		}
		d.dir.set(e.name, e.ino)
		if n := v.cache.inodes[e.ino]; n != nil {
			n.links++
			n.ctime = now
			n.parent, n.name = e.dir, e.name
			if n.isDir() {
				d.subdirs++
			}
		}
		d.mtime, d.ctime = now, now
	}
	v.emit(nil, now, &op{kind: opNames, meta: m})
	for _, e := range m.entries {
		for _, ino := range [...]uint64{e.dir, e.ino, e.was} {
			if n := v.cache.inodes[ino]; n != nil {
				n.touched = v.seq
			}
		}
	}
}

// bear makes an inode without a name.
func (v *volume) bear(a attr, target string, now int64) *inode {
	v.relieve()
	a.atime, a.mtime, a.ctime = now, now, now
	n := newInode(v.nextIno, a, target)
	v.nextIno++
	v.cache.inodes[n.ino] = n
	v.emit(n, now, &op{kind: opCreate, meta: &meta{attr: a, target: target}})
	return n
}

// create makes a file of any type in a directory. The group and the set-gid bit
// are inherited where the directory says so.
func (v *volume) create(dir uint64, name string, a attr, target string, now int64) (*inode, syscall.Errno) {
	d, e := v.dirOf(dir, name)
	switch {
	case e != 0:
		return nil, e
	case d.dir.get(name) != 0:
		return nil, syscall.EEXIST
	case d.links == 0 && d.ino != rootIno:
		return nil, syscall.ENOENT
	}
	if d.mode&syscall.S_ISGID != 0 {
		a.gid = d.gid
		if a.isDir() {
			a.mode |= syscall.S_ISGID
		}
	}
	n := v.bear(a, target, now)
	v.names(now, &meta{entries: []entry{{dir: dir, name: name, ino: n.ino}}})
	return n, 0
}

func (v *volume) link(ino, dir uint64, name string, now int64) (*inode, syscall.Errno) {
	d, e := v.dirOf(dir, name)
	n := v.cache.inodes[ino]
	switch {
	case e != 0:
		return nil, e
	case n == nil || d.links == 0 && d.ino != rootIno:
		return nil, syscall.ENOENT
	case n.isDir():
		return nil, syscall.EPERM
	case d.dir.get(name) != 0:
		return nil, syscall.EEXIST
	case n.links >= 65000:
		return nil, syscall.EMLINK
	}
	v.relieve()
	v.names(now, &meta{entries: []entry{{dir: dir, name: name, ino: ino}}})
	return n, 0
}

// remove is unlink, or rmdir of an empty directory.
func (v *volume) remove(dir uint64, name string, wantDir bool, now int64) syscall.Errno {
	n, e := v.lookup(dir, name)
	switch {
	case e != 0:
		return e
	case wantDir && !n.isDir():
		return syscall.ENOTDIR
	case !wantDir && n.isDir():
		return syscall.EISDIR
	case n.isDir() && len(n.dir.names) > 0:
		return syscall.ENOTEMPTY
	}
	v.relieve()
	v.names(now, &meta{entries: []entry{{dir: dir, name: name}}})
	v.emptied(n)
	v.free(n)
	return 0
}

// emptied makes the removal of a directory, which was just emitted, wait for
// everything that happened in it.
func (v *volume) emptied(n *inode) {
	if nd := v.nodes[n.ino]; n.isDir() && nd != nil {
		o := v.log[len(v.log)-1]
		for _, first := range nd.names {
			o.need(first)
		}
	}
}

const (
	renameNoReplace = 1
	renameExchange  = 2
)

func (v *volume) rename(from uint64, oldName string, to uint64, newName string, flags uint32, now int64) syscall.Errno {
	n, e := v.lookup(from, oldName)
	if e != 0 {
		return e
	}
	d, e := v.dirOf(to, newName)
	if e != 0 {
		return e
	}
	old := v.cache.inodes[d.dir.get(newName)]
	switch {
	case flags&^(renameNoReplace|renameExchange) != 0 || flags == renameNoReplace|renameExchange:
		return syscall.EINVAL
	case d.links == 0 && d.ino != rootIno:
		return syscall.ENOENT
	case flags == renameNoReplace && old != nil:
		return syscall.EEXIST
	case flags == renameExchange && old == nil:
		return syscall.ENOENT
	case v.below(to, n) || flags == renameExchange && v.below(from, old):
		return syscall.EINVAL
	case old == n:
		return 0
	}
	v.relieve()
	if flags == renameExchange {
		v.names(now, &meta{
			entries: []entry{{dir: from, name: oldName, ino: old.ino}, {dir: to, name: newName, ino: n.ino}},
			moves:   from != to && (n.isDir() || old.isDir()),
		})
		return 0
	}
	m := &meta{entries: []entry{{dir: from, name: oldName}, {dir: to, name: newName, ino: n.ino}}, moves: from != to && n.isDir()}
	if old != nil {
		switch {
		case n.isDir() && !old.isDir():
			return syscall.ENOTDIR
		case !n.isDir() && old.isDir():
			return syscall.EISDIR
		case old.isDir() && len(old.dir.names) > 0:
			return syscall.ENOTEMPTY
		}
		m.flushes = n.ino
	}
	v.names(now, m)
	if old != nil {
		v.emptied(old)
		v.free(old)
	}
	return 0
}

// below reports whether the directory dir is n or within it.
func (v *volume) below(dir uint64, n *inode) bool {
	for n.isDir() {
		if dir == n.ino {
			return true
		}
		d := v.cache.inodes[dir]
		if d == nil || dir == rootIno {
			return false
		}
		dir = d.parent
	}
	return false
}

// setAttr changes attributes of an inode; change sees the present ones.
func (v *volume) setAttr(n *inode, now int64, change func(a *attr)) {
	v.relieve()
	a := n.attr
	a.ctime = now
	change(&a)
	a.mode = n.kind() | a.mode&^typeMask
	n.attr = a
	v.emit(n, now, &op{kind: opAttr, meta: &meta{attr: a}})
}

const (
	xattrCreate  = 1
	xattrReplace = 2
)

func (v *volume) setXattr(n *inode, name string, value []byte, flags uint32, now int64) syscall.Errno {
	_, has := n.xattr[name]
	switch {
	case flags&xattrCreate != 0 && has:
		return syscall.EEXIST
	case flags&xattrReplace != 0 && !has, value == nil && !has:
		return syscall.ENODATA
	case len(name) > maxName || len(value) > 1<<16:
		return syscall.ERANGE
	}
	v.relieve()
	value = bytes.Clone(value)
	n.setXattr(name, value)
	n.ctime = now
	v.emit(n, now, &op{kind: opXattr, meta: &meta{name: name, value: value}})
	return 0
}

func (n *inode) setXattr(name string, value []byte) {
	if value == nil {
		delete(n.xattr, name)
		return
	}
	if n.xattr == nil {
		n.xattr = map[string][]byte{}
	}
	n.xattr[name] = value
}

// path is a path by which a process could name an inode, from the root without
// a leading slash; "" is the root itself or what has no name any more.
func (v *volume) path(ino uint64) string {
	var names []string
	for ino != rootIno {
		n := v.cache.inodes[ino]
		if n == nil || n.name == "" || len(names) > 4096 {
			break
		}
		names = append(names, n.name)
		ino = n.parent
	}
	if len(names) == 0 {
		return ""
	}
	slices.Reverse(names)
	return strings.Join(names, "/")
}

// xattrs lists the names of extended attributes.
func (n *inode) xattrs() []string { return slices.Sorted(maps.Keys(n.xattr)) }
