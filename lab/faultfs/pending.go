//go:build linux

package faultfs

import (
	"slices"
)

// kind of a pending operation.
type kind uint8

const (
	opData    kind = iota // bytes within one page, and how far they reach the size of the file
	opSize                // the file was cut or lengthened
	opZero                // a range became zeros
	opCreate              // there is an inode
	opAttr                // mode, owner, times
	opXattr               // one extended attribute
	opNames               // entries of directories change, at once
	opBarrier             // closed after it was emptied: what was written before goes to the disk before the journal does
)

// op is a change that processes see and the disk does not have yet. Ops set
// states, they do not transform them: applying one twice is applying it once.
type op struct {
	seq  uint64
	at   int64
	ino  uint64
	off  int64  // data, zero: offset; size: the size
	end  int64  // data: size that the file has by it, 0 if it did not grow; zero: end of the range
	data []byte // data: the bytes …
	full *page  // … or the whole page
	meta *meta
	deps []*op // opNames: what has to be there first
	kind kind
	lost uint8 // data: sectors of the page that will not reach the disk
	done bool  // it is on the disk, or will never be
}

// meta is what few operations have.
type meta struct {
	attr    attr
	target  string
	name    string // of the extended attribute
	value   []byte // nil removes it
	entries []entry
	moves   bool   // a directory to another one
	flushes uint64 // inode whose data goes to the disk before this does
}

// entry is a name that leads to an inode, or to none when ino is 0.
type entry struct {
	dir  uint64
	name string
	ino  uint64
	was  uint64
}

type nameKey struct {
	dir  uint64
	name string
}

// node is where the pending operations of one inode are found.
type node struct {
	ops   []*op // all but opNames, in order
	names []*op // opNames that change entries in this directory
	named []*op // opNames by which an entry began or ceased to lead here
}

// graph is the pending operations.
type graph struct {
	log   []*op // in order, some of them done
	live  int   // of them not done
	bytes int64 // of content in them
	seq   uint64
	// journal is up to where a filesystem with a journal of metadata has
	// committed it.
	journal uint64
	nodes   map[uint64]*node
	last    map[nameKey]*op // the last pending change of an entry
	move    *op             // the last pending move of a directory
	zombies []zombie
}

// zombie is an inode that no process can reach any more, but that may come back
// when the power fails.
type zombie struct{ ino, since uint64 }

func newGraph(seq uint64) graph {
	return graph{seq: seq, journal: seq, nodes: map[uint64]*node{}, last: map[nameKey]*op{}}
}

func (g *graph) node(ino uint64) *node {
	n := g.nodes[ino]
	if n == nil {
		n = &node{}
		g.nodes[ino] = n
	}
	return n
}

// size of the content that an op holds.
func (o *op) bytes() int64 {
	if o.full != nil {
		return pageSize
	}
	return int64(len(o.data))
}

// add appends an op.
func (g *graph) add(o *op) {
	g.seq++
	o.seq = g.seq
	g.log = append(g.log, o)
	g.live++
	g.bytes += o.bytes()
	if o.kind != opNames {
		n := g.node(o.ino)
		n.ops = append(n.ops, o)
		return
	}
	for i, e := range o.meta.entries {
		key := nameKey{e.dir, e.name}
		o.need(g.last[key])
		g.last[key] = o
		if d := g.node(e.dir); i == 0 || o.meta.entries[0].dir != e.dir {
			d.names = append(d.names, o)
		}
		for _, ino := range [...]uint64{e.ino, e.was} {
			if ino != 0 {
				n := g.node(ino)
				if !slices.Contains(n.named, o) {
					n.named = append(n.named, o)
				}
			}
		}
	}
	if o.meta.moves {
		o.need(g.move)
		g.move = o
	}
}

// need makes o wait for another op.
func (o *op) need(first *op) {
	if first != nil && !first.done && first != o {
		o.deps = append(o.deps, first)
	}
}

// finish takes ops out of the graph: they are on the disk, or will never be.
func (g *graph) finish(ops []*op) {
	touched := map[uint64]int{} // and how many of the ops of the inode itself
	for _, o := range ops {
		if o.done {
			continue
		}
		o.done = true
		g.live--
		g.bytes -= o.bytes()
		touched[o.ino]++
		if o.kind == opNames {
			for _, e := range o.meta.entries {
				if key := (nameKey{e.dir, e.name}); g.last[key] == o {
					delete(g.last, key)
				}
				for _, ino := range [...]uint64{e.dir, e.ino, e.was} {
					touched[ino] += 0
				}
			}
			if g.move == o {
				g.move = nil
			}
		}
		o.data, o.full, o.deps = nil, nil, nil
	}
	for ino, done := range touched {
		n := g.nodes[ino]
		if n == nil {
			continue
		}
		had := len(n.ops)
		if n.ops = trim(n.ops); had-len(n.ops) < done {
			n.ops = pendingOf(n.ops)
		}
		n.names, n.named = pendingOf(n.names), pendingOf(n.named)
		if len(n.ops)+len(n.names)+len(n.named) == 0 {
			delete(g.nodes, ino)
		}
	}
	if g.log = trim(g.log); len(g.log) > 2*g.live+1024 {
		g.log = pendingOf(g.log)
	}
}

// trim drops what is done at the front: most of it, where much is.
func trim(ops []*op) []*op {
	for len(ops) > 0 && ops[0].done {
		ops[0] = nil
		ops = ops[1:]
	}
	return ops
}

// pendingOf drops what is done.
func pendingOf(ops []*op) []*op {
	ops = slices.DeleteFunc(ops, func(o *op) bool { return o.done })
	if len(ops) == 0 {
		return nil
	}
	return ops
}

// with returns the pending ops and everything that they need, in order.
func with(ops []*op) []*op {
	seen := map[*op]bool{}
	var all []*op
	todo := slices.Clone(ops)
	for len(todo) > 0 {
		o := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if o.done || seen[o] {
			continue
		}
		seen[o] = true
		all = append(all, o)
		todo = append(todo, o.deps...)
	}
	slices.SortFunc(all, bySeq)
	return all
}

func bySeq(a, b *op) int {
	if a.seq < b.seq {
		return -1
	}
	return 1
}

// apply makes an op durable on an image: its bytes, and the size that it gave
// the file.
func (m *image) apply(o *op, data, size bool) {
	if o.kind == opNames {
		for _, e := range o.meta.entries {
			if d := m.inodes[e.dir]; d != nil && d.dir != nil {
				if old := m.inodes[d.dir.get(e.name)]; old != nil {
					old.links--
				}
				d.dir.set(e.name, e.ino)
				if n := m.inodes[e.ino]; n != nil {
					n.links++
				}
				d.mtime, d.ctime = o.at, o.at
			}
		}
		return
	}
	n := m.inodes[o.ino]
	if o.kind == opCreate {
		if n == nil {
			m.inodes[o.ino] = newInode(o.ino, o.meta.attr, o.meta.target)
		}
		return
	}
	if n == nil {
		return
	}
	switch o.kind {
	case opData:
		if data {
			n.data.absorb(o)
		}
		if size && o.end > n.size {
			n.size = o.end
		}
		n.mtime, n.ctime = o.at, o.at
	case opSize:
		n.data.truncate(o.off)
		n.size = o.off
		n.mtime, n.ctime = o.at, o.at
	case opZero:
		n.data.zero(o.off, o.end)
		n.mtime, n.ctime = o.at, o.at
	case opAttr:
		a := o.meta.attr
		a.mode = n.kind() | a.mode&^typeMask
		n.attr = a
	case opXattr:
		n.setXattr(o.meta.name, o.meta.value)
	case opCreate, opNames, opBarrier:
	}
}

// absorb writes an op's bytes but for the sectors that are lost.
func (c *content) absorb(o *op) {
	i := o.off / pageSize
	switch {
	case o.lost == 0 && o.full != nil:
		c.put(i, o.full, false)
	case o.lost == 0:
		c.write(o.off, o.data)
	default:
		data, in := o.data, int(o.off%pageSize)
		if o.full != nil {
			data = o.full[:]
		}
		for s := in / sectorSize; s <= (in+len(data)-1)/sectorSize; s++ {
			if o.lost&(1<<s) == 0 {
				from, to := max(in, s*sectorSize), min(in+len(data), (s+1)*sectorSize)
				c.write(i*pageSize+int64(from), data[from-in:to-in])
			}
		}
	}
}
