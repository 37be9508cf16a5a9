//go:build linux

package faultfs

import (
	"slices"
	"syscall"
	"time"
)

// fate is what becomes of one pending operation when the power fails.
type fate struct {
	keep bool  // it is on the disk; of opData: its bytes are
	size bool  // of opData: what it did to the size of the file is
	lost uint8 // of opData: but for these sectors
}

var kept = fate{keep: true, size: true}

// crash is the power failure: the disk is left with what the profile promises
// and the policy grants, and processes see that.
func (v *volume) crash(c Crash, now int64) Losses {
	ops := pendingOf(slices.Clone(v.log))
	return v.crashWith(ops, v.choose(ops, c, now))
}

// crashWith leaves the disk with the operations as they were fated.
func (v *volume) crashWith(ops []*op, fates []fate) Losses {
	undone := v.enact(v.disk, ops, fates)
	losses := compare(v.cache, v.disk)
	losses.Ops = undone
	v.cache = v.disk.clone()
	v.cache.settle()
	v.graph = newGraph(v.seq)
	v.used = 0
	for _, n := range v.cache.inodes {
		v.used += n.data.n * pageSize
	}
	return losses
}

// survivors is the image that a crash would leave.
func (v *volume) survivors(c Crash, now int64) *image {
	m := v.disk.clone()
	ops := pendingOf(slices.Clone(v.log))
	v.enact(m, ops, v.choose(ops, c, now))
	return m
}

// enact applies to an image what survives, and counts what does not.
func (v *volume) enact(m *image, ops []*op, fates []fate) (undone int) {
	for i, o := range ops {
		f := fates[i]
		if o.kind == opData {
			if o.end == 0 {
				f.size = false
			}
			if f.keep || f.size {
				left := *o
				left.lost |= f.lost
				m.apply(&left, f.keep, f.size)
			}
			if !f.keep || o.end != 0 && !f.size {
				undone++
			}
			continue
		}
		if f.keep {
			m.apply(o, true, true)
		} else if o.kind != opBarrier {
			undone++
		}
	}
	m.settle()
	return undone
}

// choose decides what becomes of the pending operations, given in order.
func (v *volume) choose(ops []*op, c Crash, now int64) []fate {
	fates := make([]fate, len(ops))
	r := random{seed: c.Seed}
	var cut uint64 // ops up to here survive, whatever the profile
	var torn *op
	switch c.Policy {
	case LoseAll, "":
	case Aged:
		age := c.Age
		if age == 0 {
			age = 30 * time.Second
		}
		for _, o := range ops {
			if o.at <= now-int64(age) {
				cut = o.seq
			}
		}
	case Prefix:
		if k := r.below("prefix", uint64(len(ops)+1)); k > 0 {
			cut = ops[k-1].seq
		}
	case TornTail:
		if c.Profile == Ext4Ordered || c.Profile == "" {
			promise(ops, fates, v.journal)
		}
		var writes []*op
		for i, o := range ops {
			if o.kind == opData && !fates[i].keep {
				writes = append(writes, o)
			}
		}
		if len(writes) > 0 {
			torn = writes[r.below("torn", uint64(len(writes)))]
			cut = torn.seq
		}
	case Subset:
		if c.Profile == Posix || c.Profile == LazyFS {
			v.subset(ops, fates, r, c.Profile == LazyFS)
			return fates
		}
		var metas []*op
		for _, o := range ops {
			if o.kind != opData {
				metas = append(metas, o)
			}
		}
		if k := r.below("prefix", uint64(len(metas)+1)); k > 0 {
			promise(ops, fates, max(v.journal, metas[k-1].seq))
		} else {
			promise(ops, fates, v.journal)
		}
		writeback(ops, fates, r)
		return fates
	}
	for i, o := range ops {
		if o.seq <= cut {
			fates[i] = kept
		}
	}
	switch c.Profile {
	case Posix:
	case LazyFS:
		for i, o := range ops {
			if o.kind != opData && o.kind != opSize && o.kind != opZero {
				fates[i] = kept
			}
		}
	case Ext4Ordered, "":
		promise(ops, fates, max(v.journal, cut))
	}
	if torn != nil {
		i, _ := slices.BinarySearchFunc(ops, torn, func(a, b *op) int { return int(int64(a.seq) - int64(b.seq)) })
		from := int(torn.off % pageSize)
		to := from + int(torn.bytes())
		if fates[i].lost = tear(random{c.Seed, torn.seq}, from, to); fates[i].lost == 0 {
			fates[i].keep = false
		}
	}
	return fates
}

// promise keeps what a journal of metadata keeps that was committed up to seq:
// the metadata until then, and the data that had to be on the disk before.
func promise(ops []*op, fates []fate, seq uint64) {
	before := map[uint64]uint64{}
	for i, o := range ops {
		if o.kind != opData && o.seq <= seq {
			fates[i] = kept
			if o.meta != nil && o.meta.flushes != 0 {
				before[o.meta.flushes] = o.seq
			}
		}
	}
	for i, o := range ops {
		if o.kind == opData && o.seq < before[o.ino] {
			fates[i] = kept
		}
	}
}

// writeback keeps some of the data of files as a kernel might have written it
// back: any page may be there, but a file grows only over pages that are, and
// nothing is there that was written after the file was cut, unless the cut is.
func writeback(ops []*op, fates []fate, r random) {
	type state struct{ cut, gap bool }
	files := map[uint64]*state{}
	for i, o := range ops {
		if o.kind != opData && o.kind != opSize && o.kind != opZero {
			continue
		}
		s := files[o.ino]
		if s == nil {
			s = &state{}
			files[o.ino] = s
		}
		if o.kind != opData {
			s.cut = s.cut || !fates[i].keep
			continue
		}
		if !fates[i].keep && !s.cut && r.chance("data", o.seq, 0.5) {
			fates[i].keep = true
		}
		if o.end != 0 {
			s.gap = s.gap || !fates[i].keep
			fates[i].size = fates[i].keep && !s.gap
		}
	}
}

// subset keeps a random half of what it may: an entry needs earlier changes of
// the same entry, the removal of a directory all that happened in it; what
// follows the cutting of a file needs the cut, and an attribute the earlier ones.
func (v *volume) subset(ops []*op, fates []fate, r random, durable bool) {
	in := map[*op]bool{}
	type state struct{ cut, attr bool }
	files := map[uint64]*state{}
	for i, o := range ops {
		s := files[o.ino]
		if s == nil {
			s = &state{}
			files[o.ino] = s
		}
		coin := r.chance("keep", o.seq, 0.5)
		switch o.kind {
		case opCreate, opBarrier:
			fates[i] = kept
		case opNames:
			ok := coin
			for _, d := range o.deps {
				ok = ok && (d.done || in[d])
			}
			if ok || durable {
				fates[i], in[o] = kept, true
			}
		case opAttr, opXattr:
			if coin && !s.attr || durable {
				fates[i] = kept
			} else {
				s.attr = true
			}
		case opSize, opZero:
			if coin && !s.cut {
				fates[i] = kept
			} else {
				s.cut = true
			}
		case opData:
			fates[i].keep = coin && !s.cut
			fates[i].size = o.end != 0 && !s.cut && r.chance("size", o.seq, 0.5)
		}
	}
}

// compare tells what is lost between two images.
func compare(old, now *image) (l Losses) {
	type place struct {
		ino  uint64
		kind uint32
	}
	before, after := map[string]place{}, map[string]place{}
	now.walk(func(path string, n *inode) { after[path] = place{n.ino, n.kind()} })
	paths := map[string]bool{}
	seen := map[uint64]bool{}
	old.walk(func(path string, n *inode) {
		here := place{n.ino, n.kind()}
		before[path] = here
		if after[path] != here {
			l.Entries++
			paths[path] = true
		}
		if n.kind() != syscall.S_IFREG || seen[n.ino] {
			return
		}
		seen[n.ino] = true
		twin := now.inodes[n.ino]
		if twin == nil {
			twin = &inode{}
		}
		if bytes, differs := lostBytes(n, twin); differs {
			l.Bytes += bytes
			l.Files++
			paths[path] = true
		}
	})
	for path := range after {
		if _, had := before[path]; !had {
			l.Entries++
			paths[path] = true
		}
	}
	for path := range paths {
		l.Paths = append(l.Paths, path)
	}
	slices.Sort(l.Paths)
	l.Paths = l.Paths[:min(len(l.Paths), 100)]
	return l
}

// lostBytes counts the bytes of a that b does not have, holes apart.
func lostBytes(a, b *inode) (lost int64, differs bool) {
	count := func(i int64, p, q *page) {
		start := i * pageSize
		if p == q && min(a.size, start+pageSize) <= b.size {
			return
		}
		if p == nil {
			p = &zeroPage
		}
		if q == nil {
			q = &zeroPage
		}
		for k := range min(pageSize, a.size-start) {
			if start+k >= b.size || p[k] != q[k] {
				lost++
			}
		}
	}
	a.data.each(func(i int64, p *page) { count(i, p, b.data.get(i)) })
	b.data.each(func(i int64, q *page) {
		if a.data.get(i) == nil && i*pageSize < a.size {
			count(i, nil, q)
		}
	})
	return lost, lost > 0 || a.size != b.size
}
