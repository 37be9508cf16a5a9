//go:build linux

package faultfs

import (
	"maps"
	"slices"
	"syscall"
)

const rootIno = 1

// attr is what stat shows of an inode and that it keeps itself.
type attr struct {
	mode                uint32 // with the type
	uid, gid, rdev      uint32
	atime, mtime, ctime int64 // ns since 1970
}

func (a *attr) kind() uint32 { return a.mode & syscall.S_IFMT }
func (a *attr) isDir() bool  { return a.kind() == syscall.S_IFDIR }
func (a *attr) isReg() bool  { return a.kind() == syscall.S_IFREG }

// inode is a file as one of the images has it.
type inode struct {
	attr
	ino    uint64
	size   int64
	links  uint32 // names that lead here; of a directory 0 or 1
	target string // of a symlink
	xattr  map[string][]byte
	data   content
	dir    *directory

	// In the cache only.
	opens    int
	parent   uint64 // where it was named last, for paths
	name     string
	emptied  bool               // it was cut to nothing and not closed since
	diverged map[int64]struct{} // clean pages of which the disk has something else
	subdirs  uint32
	touched  uint64 // last operation on it
	resized  uint64 // last one that changed where its data is
}

func newInode(ino uint64, a attr, target string) *inode {
	n := &inode{attr: a, ino: ino, target: target, size: int64(len(target))}
	if a.isDir() {
		n.dir = &directory{names: map[string]*slot{}, next: firstCookie}
	}
	return n
}

// nlink is the count of links as stat shows it.
func (n *inode) nlink() uint32 {
	if n.isDir() {
		if n.links == 0 && n.ino != rootIno {
			return 0
		}
		return 2 + n.subdirs
	}
	return n.links
}

func (n *inode) clone() *inode {
	c := &inode{attr: n.attr, ino: n.ino, size: n.size, links: n.links, target: n.target, xattr: maps.Clone(n.xattr), data: n.data.clone()}
	if n.dir != nil {
		c.dir = &directory{names: make(map[string]*slot, len(n.dir.names)), next: firstCookie}
		for _, name := range slices.Sorted(maps.Keys(n.dir.names)) {
			c.dir.set(name, n.dir.names[name].ino)
		}
	}
	return c
}

// firstCookie is after those of "." and "..".
const firstCookie = 3

// directory maps names to inodes and keeps the order in which they came, so
// that whoever lists it meanwhile misses and repeats nothing.
type directory struct {
	names map[string]*slot
	list  []*slot // by cookie
	dead  int     // slots of the list that are free
	next  uint64
}

// slot is one entry.
type slot struct {
	name   string
	ino    uint64 // 0: removed
	cookie uint64 // position after it
}

func (d *directory) get(name string) uint64 {
	if s := d.names[name]; s != nil {
		return s.ino
	}
	return 0
}

// set changes an entry; ino 0 removes it.
func (d *directory) set(name string, ino uint64) {
	s := d.names[name]
	switch {
	case s != nil && ino != 0:
		s.ino = ino
	case s != nil:
		delete(d.names, name)
		s.ino = 0
		if d.dead++; d.dead > 64 && d.dead > len(d.list)/2 {
			d.list = slices.DeleteFunc(d.list, func(s *slot) bool { return s.ino == 0 })
			d.dead = 0
		}
	case ino != 0:
		s = &slot{name: name, ino: ino, cookie: d.next}
		d.next++
		d.names[name] = s
		d.list = append(d.list, s)
	}
}

// after returns the entries behind a cookie.
func (d *directory) after(cookie uint64) []*slot {
	i, _ := slices.BinarySearchFunc(d.list, cookie, func(s *slot, c uint64) int {
		if s.cookie <= c {
			return -1
		}
		return 1
	})
	return d.list[i:]
}

// image is one state of the filesystem.
type image struct{ inodes map[uint64]*inode }

func (m *image) clone() *image {
	c := &image{inodes: make(map[uint64]*inode, len(m.inodes))}
	for ino, n := range m.inodes {
		c.inodes[ino] = n.clone()
	}
	return c
}

// walk calls f for everything that a path leads to, directories before what is
// in them, in the order of names.
func (m *image) walk(f func(path string, n *inode)) {
	var in func(path string, n *inode, depth int)
	in = func(path string, n *inode, depth int) {
		f(path, n)
		if n.dir == nil || depth > 4096 {
			return
		}
		for _, name := range slices.Sorted(maps.Keys(n.dir.names)) {
			if child := m.inodes[n.dir.names[name].ino]; child != nil {
				below := name
				if path != "" {
					below = path + "/" + name
				}
				in(below, child, depth+1)
			}
		}
	}
	if root := m.inodes[rootIno]; root != nil {
		in("", root, 0)
	}
}

// settle drops entries that lead nowhere, inodes to which nothing leads, and
// content behind the end of files, and counts the links anew.
func (m *image) settle() {
	for _, n := range m.inodes {
		n.links, n.subdirs = 0, 0
	}
	seen := map[uint64]bool{rootIno: true}
	todo := []uint64{rootIno}
	for len(todo) > 0 {
		n := m.inodes[todo[0]]
		todo = todo[1:]
		for _, name := range slices.Sorted(maps.Keys(n.dir.names)) {
			child := m.inodes[n.dir.names[name].ino]
			if child == nil || child.isDir() && seen[child.ino] {
				n.dir.set(name, 0)
				continue
			}
			child.links++
			child.parent, child.name = n.ino, name
			if child.isDir() {
				n.subdirs++
				todo = append(todo, child.ino)
			}
			seen[child.ino] = true
		}
	}
	for ino, n := range m.inodes {
		if !seen[ino] {
			delete(m.inodes, ino)
			continue
		}
		if n.isReg() {
			n.data.truncate(n.size)
		}
	}
}
