//go:build linux

package faultfs

import "maps"

const (
	pageSize   = 4096
	sectorSize = 512
	chunkPages = 64
)

type page [pageSize]byte

var zeroPage page

// content is a file's pages, sparse: what is not there reads as zeros. A page
// belongs to one content or is shared; a shared page is never changed, only
// replaced.
type content struct {
	chunks map[int64]*chunk
	n      int64 // pages that are there
}

type chunk struct {
	pages [chunkPages]*page
	owned uint64 // bit i: nobody else refers to page i
	n     int
}

func (c *content) get(i int64) *page {
	if k := c.chunks[i/chunkPages]; k != nil {
		return k.pages[i%chunkPages]
	}
	return nil
}

// put sets page i, which is shared if it is not owned; nil makes a hole.
func (c *content) put(i int64, p *page, owned bool) {
	k := c.chunks[i/chunkPages]
	if k == nil {
		if p == nil {
			return
		}
		if c.chunks == nil {
			c.chunks = map[int64]*chunk{}
		}
		k = &chunk{}
		c.chunks[i/chunkPages] = k
	}
	j := i % chunkPages
	switch old := k.pages[j]; {
	case old == nil && p != nil:
		k.n++
		c.n++
	case old != nil && p == nil:
		k.n--
		c.n--
	}
	k.pages[j] = p
	k.owned &^= 1 << j
	if owned {
		k.owned |= 1 << j
	}
	if k.n == 0 {
		delete(c.chunks, i/chunkPages)
	}
}

// share returns page i, which from now on may be referred to from elsewhere.
func (c *content) share(i int64) *page {
	k := c.chunks[i/chunkPages]
	if k == nil {
		return nil
	}
	k.owned &^= 1 << (i % chunkPages)
	return k.pages[i%chunkPages]
}

// own returns page i to be changed in place: its own copy, made if need be.
func (c *content) own(i int64) *page {
	if k := c.chunks[i/chunkPages]; k != nil && k.owned&(1<<(i%chunkPages)) != 0 {
		return k.pages[i%chunkPages]
	}
	p := new(page)
	if old := c.get(i); old != nil {
		*p = *old
	}
	c.put(i, p, true)
	return p
}

// missing is how many pages of the range [off, off+n) are not there.
func (c *content) missing(off, n int64) (holes int64) {
	if n <= 0 {
		return 0
	}
	for i := off / pageSize; i <= (off+n-1)/pageSize; i++ {
		if c.get(i) == nil {
			holes++
		}
	}
	return holes
}

// write puts bytes that stay within one page.
func (c *content) write(off int64, data []byte) {
	copy(c.own(off / pageSize)[off%pageSize:], data)
}

// read fills b from off.
func (c *content) read(b []byte, off int64) {
	for len(b) > 0 {
		in := int(off % pageSize)
		n := min(len(b), pageSize-in)
		if p := c.get(off / pageSize); p != nil {
			copy(b[:n], p[in:])
		} else {
			clear(b[:n])
		}
		b, off = b[n:], off+int64(n)
	}
}

// zero makes [off, end) read as zeros; whole pages become holes.
func (c *content) zero(off, end int64) {
	if off >= end {
		return
	}
	if in := off % pageSize; in != 0 {
		stop := min(end, off-in+pageSize)
		if c.get(off/pageSize) != nil {
			clear(c.own(off / pageSize)[in : in+stop-off])
		}
		off = stop
	}
	last := end / pageSize
	if first := off / pageSize; first < last {
		c.each(func(i int64, _ *page) {
			if i >= first && i < last {
				c.put(i, nil, false)
			}
		})
		off = last * pageSize
	}
	if off < end && c.get(last) != nil {
		clear(c.own(last)[:end-off])
	}
}

// truncate forgets everything from size on.
func (c *content) truncate(size int64) { c.zero(size, 1<<62) }

// each calls f for every page that is there, in no order; f may remove pages.
func (c *content) each(f func(i int64, p *page)) {
	for at, k := range c.chunks {
		for j, p := range k.pages {
			if p != nil {
				f(at*chunkPages+int64(j), p)
			}
		}
	}
}

// clone shares all pages with a new content.
func (c *content) clone() content {
	d := content{n: c.n}
	if len(c.chunks) > 0 {
		d.chunks = maps.Clone(c.chunks)
		for at, k := range c.chunks {
			k.owned = 0
			twin := *k
			d.chunks[at] = &twin
		}
	}
	return d
}

// data returns the first offset at or after off that holds data or, if hole is
// asked for, that holds none, up to size; false is that there is none.
func (c *content) seek(off, size int64, hole bool) (int64, bool) {
	for off < size {
		i := off / pageSize
		if c.chunks[i/chunkPages] == nil {
			if hole {
				return off, true
			}
			off = (i/chunkPages + 1) * chunkPages * pageSize
			if len(c.chunks) == 0 {
				return 0, false
			}
			continue
		}
		if (c.get(i) == nil) == hole {
			return off, true
		}
		off = (i + 1) * pageSize
	}
	if hole {
		return size, true
	}
	return 0, false
}
