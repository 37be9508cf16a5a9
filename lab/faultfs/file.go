//go:build linux

package faultfs

import (
	"bytes"
	"encoding/binary"
	"hash/fnv"
	"slices"
	"syscall"
)

// mishap is what goes wrong with a write on its way to the disk.
type mishap struct {
	action Action // Torn, Stale, Misdirect; empty is nothing
	seed   uint64
}

// write writes to a file and returns whether the mishap, if there is one,
// changed anything.
func (v *volume) write(n *inode, off int64, data []byte, m mishap, now int64) (hit bool, e syscall.Errno) {
	end := off + int64(len(data))
	if e := v.room(n, off, end); e != 0 {
		return false, e
	}
	v.relieve()
	n.mtime, n.ctime = now, now
	before := n.data.n
	for at := off; len(data) > 0; {
		k := min(len(data), pageSize-int(at%pageSize))
		hit = v.writePage(n, at, data[:k], m, now) || hit
		data, at = data[k:], at+int64(k)
	}
	v.used += (n.data.n - before) * pageSize
	return hit, 0
}

// room checks that a file may grow to end and that there is space for the pages
// of [off, end).
func (v *volume) room(n *inode, off, end int64) syscall.Errno {
	switch {
	case !n.isReg():
		return syscall.EINVAL
	case off < 0 || end < off || end > maxFileSize:
		return syscall.EFBIG
	case v.used+n.data.missing(off, end-off)*pageSize > v.quota:
		return syscall.ENOSPC
	}
	return 0
}

// writePage writes within one page.
func (v *volume) writePage(n *inode, off int64, data []byte, m mishap, now int64) (hit bool) {
	i := off / pageSize
	o := &op{kind: opData, off: off}
	if end := off + int64(len(data)); end > n.size {
		o.end, n.size = end, end
	}
	if n.data.get(i) == nil {
		n.resized = v.seq + 1
	}
	if _, strayed := n.diverged[i]; strayed && len(data) < pageSize {
		// The whole page is dirty again, as the kernel knows only whole pages.
		delete(n.diverged, i)
		n.data.write(off, data)
		o.full, o.off = n.data.share(i), i*pageSize
	} else if len(data) == pageSize {
		delete(n.diverged, i)
		p := page(data)
		n.data.put(i, &p, false)
		o.full = &p
	} else {
		n.data.write(off, data)
		o.data = bytes.Clone(data)
	}
	r := random{m.seed, uint64(i)}
	if m.action == Stale {
		o.lost, hit = 0xff, true
	}
	if m.action == Torn {
		in := int(o.off % pageSize)
		o.lost = tear(r, in, in+int(o.bytes()))
		hit = o.lost != 0
	}
	if pages := (n.size + pageSize - 1) / pageSize; m.action == Misdirect && pages > 1 {
		to := int64(r.below("page", uint64(pages-1)))
		if to >= i {
			to++
		}
		n.diverge(to)
		o.off += (to - i) * pageSize
		hit = true
	}
	if hit {
		n.diverge(i)
	}
	v.emit(n, now, o)
	return hit
}

// tear chooses sectors of [from, to) within a page to lose: not all and not
// none of them, unless there is only one, which is whole or not at all there.
func tear(r random, from, to int) (lost uint8) {
	first, last := from/sectorSize, (to-1)/sectorSize
	if first == last {
		return 0
	}
	for s := first; s <= last; s++ {
		if r.chance("sector", uint64(s), 0.5) {
			lost |= 1 << s
		}
	}
	one := uint8(1) << (first + int(r.below("one", uint64(last-first+1))))
	switch all := uint8(0xff) << first & (0xff >> (7 - last)); lost & all {
	case 0:
		return one
	case all:
		return lost &^ one
	}
	return lost
}

// diverge notes that the disk has something else on page i, though it is clean.
func (n *inode) diverge(i int64) {
	if n.diverged == nil {
		n.diverged = map[int64]struct{}{}
	}
	n.diverged[i] = struct{}{}
}

// read fills b from a file and returns how much there was.
func (v *volume) read(n *inode, off int64, b []byte) int {
	if off >= n.size {
		return 0
	}
	b = b[:min(int64(len(b)), n.size-off)]
	n.data.read(b, off)
	return len(b)
}

// truncate sets the size of a file.
func (v *volume) truncate(n *inode, size, now int64) syscall.Errno {
	switch {
	case n.isDir():
		return syscall.EISDIR
	case !n.isReg():
		return syscall.EINVAL
	case size < 0 || size > maxFileSize:
		return syscall.EFBIG
	}
	v.relieve()
	before := n.data.n
	n.data.truncate(size)
	v.used += (n.data.n - before) * pageSize
	n.emptied = n.emptied || size == 0 && n.size > 0
	n.size = size
	n.mtime, n.ctime = now, now
	v.emit(n, now, &op{kind: opSize, off: size})
	return 0
}

const (
	fallocKeepSize  = 0x01
	fallocPunchHole = 0x02
	fallocZeroRange = 0x10
)

// allocate is fallocate. Space that is only reserved takes none, but there must
// be enough.
func (v *volume) allocate(n *inode, mode uint32, off, length, now int64) syscall.Errno {
	end := off + length
	switch mode {
	case 0, fallocKeepSize, fallocPunchHole | fallocKeepSize, fallocZeroRange, fallocZeroRange | fallocKeepSize:
	default:
		return syscall.EOPNOTSUPP
	}
	if off < 0 || length <= 0 {
		return syscall.EINVAL
	}
	if mode&(fallocPunchHole|fallocZeroRange) == 0 {
		if e := v.room(n, off, end); e != 0 {
			return e
		}
	} else if !n.isReg() || end > maxFileSize {
		return syscall.EFBIG
	}
	v.relieve()
	if mode&(fallocPunchHole|fallocZeroRange) != 0 {
		before := n.data.n
		n.data.zero(off, min(end, (n.size+pageSize-1)/pageSize*pageSize))
		v.used += (n.data.n - before) * pageSize
		n.mtime, n.ctime = now, now
		v.emit(n, now, &op{kind: opZero, off: off, end: end})
	}
	if mode&fallocKeepSize == 0 && end > n.size {
		n.size = end
		n.mtime, n.ctime = now, now
		v.emit(n, now, &op{kind: opSize, off: end})
	}
	return 0
}

// copyRange copies within the filesystem and returns how much.
func (v *volume) copyRange(from *inode, off int64, to *inode, at, length, now int64) (int64, syscall.Errno) {
	if !from.isReg() || !to.isReg() {
		return 0, syscall.EINVAL
	}
	length = min(length, from.size-off, 1<<20)
	if length <= 0 {
		return 0, 0
	}
	if from == to && off < at+length && at < off+length {
		return 0, syscall.EINVAL
	}
	b := make([]byte, length)
	v.read(from, off, b)
	_, e := v.write(to, at, b, mishap{}, now)
	return length, e
}

// opened and closed count who has a file open, so that it lives on without a
// name.
func (v *volume) opened(n *inode) { n.opens++ }

func (v *volume) closed(n *inode) {
	n.opens--
	v.free(n)
}

// flushed is close(2) by a process.
func (v *volume) flushed(n *inode, now int64) {
	if n.emptied {
		n.emptied = false
		v.emit(n, now, &op{kind: opBarrier, meta: &meta{flushes: n.ino}})
	}
}

// spot is a bit of a file at rest.
type spot struct {
	path string
	ino  uint64
	off  int64
	bit  int
}

// flip flips n bits of files whose path matches, on the disk and in the cache,
// where the disk has something; of files that are not on the disk at all in the
// cache.
func (v *volume) flip(match func(path string) bool, n int, seed uint64) (spots []spot) {
	type place struct {
		path string
		ino  uint64
		page int64
	}
	var places []place
	collect := func(from *image) {
		v.cache.walk(func(path string, c *inode) {
			d := from.inodes[c.ino]
			if !c.isReg() || d == nil || !match(path) {
				return
			}
			var pages []int64
			d.data.each(func(i int64, _ *page) {
				if i*pageSize < min(d.size, c.size) {
					pages = append(pages, i)
				}
			})
			slices.Sort(pages)
			for _, i := range pages {
				places = append(places, place{path, c.ino, i})
			}
		})
	}
	if collect(v.disk); len(places) == 0 {
		collect(v.cache)
	}
	if len(places) == 0 {
		return nil
	}
	for k := range n {
		r := random{seed, uint64(k)}
		p := places[r.below("place", uint64(len(places)))]
		c, d := v.cache.inodes[p.ino], v.disk.inodes[p.ino]
		size := c.size
		onDisk := d != nil && d.data.get(p.page) != nil
		if onDisk {
			size = min(size, d.size)
		}
		in := int64(r.below("byte", uint64(min(pageSize, size-p.page*pageSize))))
		bit := int(r.below("bit", 8))
		before := c.data.n
		c.data.own(p.page)[in] ^= 1 << bit
		v.used += (c.data.n - before) * pageSize
		if onDisk {
			d.data.own(p.page)[in] ^= 1 << bit
		}
		spots = append(spots, spot{p.path, p.ino, p.page*pageSize + in, bit})
	}
	return spots
}

// random gives decisions that depend only on the seed, an event, and what is
// decided.
type random struct{ seed, event uint64 }

func (r random) bits(what string, i uint64) uint64 {
	h := fnv.New64a()
	var b [24]byte
	binary.LittleEndian.PutUint64(b[:], r.seed)
	binary.LittleEndian.PutUint64(b[8:], r.event)
	binary.LittleEndian.PutUint64(b[16:], i)
	_, _ = h.Write(b[:])
	_, _ = h.Write([]byte(what))
	x := h.Sum64() // FNV's high bits are weak: finish as splitmix64 does
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// below is a number below n, which is not 0.
func (r random) below(what string, n uint64) uint64 { return r.bits(what, 0) % n }

// unit is a number from [0, 1).
func (r random) unit(what string, i uint64) float64 { return float64(r.bits(what, i)>>11) / (1 << 53) }

func (r random) chance(what string, i uint64, p float64) bool { return r.unit(what, i) < p }
