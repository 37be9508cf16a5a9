//go:build linux

package faultfs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
)

// The model is the filesystem written down a second time, so slowly that it is
// easy to see that it is right: files are byte slices, and the disk is what
// comes out when the durable steps of the whole history are done again from the
// start.

type modelFile struct {
	attr
	ino     uint64
	size    int64
	bytes   []byte // as long as whatever was written, which may be behind the size
	present map[int64]bool
	odd     map[int64]bool // pages clean in the cache of which the disk has something else
	target  string
	xattr   map[string]string
	names   map[string]uint64
	opens   int
	emptied bool
}

func (f *modelFile) clone() *modelFile {
	c := *f
	c.bytes, c.present, c.odd = slices.Clone(f.bytes), maps.Clone(f.present), maps.Clone(f.odd)
	c.xattr, c.names = maps.Clone(f.xattr), maps.Clone(f.names)
	return &c
}

func newModelFile(ino uint64, a attr, target string) *modelFile {
	return &modelFile{
		attr: a, ino: ino, size: int64(len(target)), target: target,
		present: map[int64]bool{}, odd: map[int64]bool{}, xattr: map[string]string{}, names: map[string]uint64{},
	}
}

func (f *modelFile) put(off int64, data []byte) {
	if need := (off + int64(len(data)) + pageSize - 1) / pageSize * pageSize; int64(len(f.bytes)) < need {
		f.bytes = append(f.bytes, make([]byte, need-int64(len(f.bytes)))...)
	}
	copy(f.bytes[off:], data)
	f.present[off/pageSize] = true
}

func (f *modelFile) zero(off, end int64) {
	for i := off; i < min(end, int64(len(f.bytes))); i++ {
		f.bytes[i] = 0
	}
	for i := range f.present {
		if i*pageSize >= off && (i+1)*pageSize <= end {
			delete(f.present, i)
		}
	}
}

func (f *modelFile) content() string {
	b := make([]byte, f.size)
	copy(b, f.bytes)
	return string(b)
}

// step is one op of the history.
type step struct {
	kind    kind
	seq     uint64
	at      int64
	ino     uint64
	off     int64
	end     int64
	data    string
	lost    uint8
	attr    attr
	text    string
	value   *string
	entries []entry
	moves   bool
	emptied uint64 // directory that it removes
	flushes uint64
	alloc   bool // the page was not there
	durable bool // under posix
	erased  bool
}

func (s *step) names(ino uint64) bool {
	return slices.ContainsFunc(s.entries, func(e entry) bool { return e.ino == ino || e.was == ino })
}

func (s *step) within(dir uint64) bool {
	return slices.ContainsFunc(s.entries, func(e entry) bool { return e.dir == dir })
}

func (s *step) sharesKey(o *step) bool {
	return slices.ContainsFunc(s.entries, func(e entry) bool {
		return slices.ContainsFunc(o.entries, func(f entry) bool { return e.dir == f.dir && e.name == f.name })
	})
}

type modelFS map[uint64]*modelFile

func (m modelFS) clone() modelFS {
	c := modelFS{}
	for ino, f := range m {
		c[ino] = f.clone()
	}
	return c
}

// redo does a step again.
func (m modelFS) redo(s *step, data, size bool, lost uint8) {
	for _, e := range s.entries {
		if d := m[e.dir]; d != nil {
			if d.names[e.name] = e.ino; e.ino == 0 {
				delete(d.names, e.name)
			}
			d.mtime, d.ctime = s.at, s.at
		}
	}
	f := m[s.ino]
	if s.kind == opCreate && f == nil {
		m[s.ino] = newModelFile(s.ino, s.attr, s.text)
	}
	if f == nil {
		return
	}
	switch s.kind {
	case opData:
		if data {
			for i := range len(s.data) {
				if at := s.off + int64(i); (lost|s.lost)&(1<<(at%pageSize/sectorSize)) == 0 {
					f.put(at, []byte{s.data[i]})
				}
			}
		}
		if size {
			f.size = max(f.size, s.end)
		}
		f.mtime, f.ctime = s.at, s.at
	case opSize:
		f.zero(s.off, 1<<60)
		f.size = s.off
		f.mtime, f.ctime = s.at, s.at
	case opZero:
		f.zero(s.off, s.end)
		f.mtime, f.ctime = s.at, s.at
	case opAttr:
		f.attr = s.attr
	case opXattr:
		if s.value == nil {
			delete(f.xattr, s.text)
		} else {
			f.xattr[s.text] = *s.value
		}
	case opCreate, opNames, opBarrier:
	}
}

// settle leaves only what paths lead to.
func (m modelFS) settle() {
	seen := map[uint64]bool{}
	var visit func(ino uint64)
	visit = func(ino uint64) {
		seen[ino] = true
		f := m[ino]
		for name, child := range f.names {
			if m[child] == nil {
				delete(f.names, name)
			} else if !seen[child] {
				visit(child)
			}
		}
	}
	visit(rootIno)
	for ino, f := range m {
		if !seen[ino] {
			delete(m, ino)
			continue
		}
		f.zero(f.size, 1<<60)
		clear(f.odd)
		f.opens, f.emptied = 0, false
	}
}

// show is everything that a process can see, a line each.
func (m modelFS) show() (lines []string) {
	links := map[uint64]int{}
	for _, f := range m {
		for _, ino := range f.names {
			if links[ino]++; m[ino].isDir() {
				links[f.ino]++
			}
		}
	}
	var visit func(path string, f *modelFile)
	visit = func(path string, f *modelFile) {
		n := links[f.ino]
		if f.isDir() {
			n++
			if f.ino == rootIno {
				n++
			}
		}
		var x []string
		for _, k := range slices.Sorted(maps.Keys(f.xattr)) {
			x = append(x, k+"="+f.xattr[k])
		}
		lines = append(lines, showFile(path, f.attr, f.ino, n, f.target, x, f.size, f.content))
		for _, name := range slices.Sorted(maps.Keys(f.names)) {
			visit(path+"/"+name, m[f.names[name]])
		}
	}
	visit("", m[rootIno])
	return lines
}

func showFile(path string, a attr, ino uint64, links int, target string, x []string, size int64, content func() string) string {
	text := ""
	if a.isReg() {
		text = shorten(content())
	} else {
		a.mtime = 0 // those of directories are not promised
	}
	return fmt.Sprintf("%s #%d %o %d:%d x%d @%d %q %v %d %s", path, ino, a.mode, a.uid, a.gid, links, a.mtime, target, x, size, text)
}

// shorten writes runs of one byte as its count.
func shorten(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		j := i
		for j < len(s) && s[j] == s[i] {
			j++
		}
		fmt.Fprintf(&b, "%d*%q ", j-i, s[i])
		i = j
	}
	return b.String()
}

// showImage is the same of an image of the core.
func showImage(m *image) (lines []string) {
	m.walk(func(path string, n *inode) {
		var x []string
		for _, k := range n.xattrs() {
			x = append(x, k+"="+string(n.xattr[k]))
		}
		if path != "" {
			path = "/" + path
		}
		lines = append(lines, showFile(path, n.attr, n.ino, int(n.nlink()), n.target, x, n.size, func() string {
			b := make([]byte, n.size)
			n.data.read(b, 0)
			return string(b)
		}))
	})
	return lines
}

// model is the whole: what processes see, the history since the last power
// failure, and what there was before.
type model struct {
	cache, base modelFS
	steps       []*step
	seq         uint64
	next        uint64
	journal     uint64
	freed       map[uint64]uint64
}

func newModel(root attr) *model {
	m := &model{cache: modelFS{rootIno: newModelFile(rootIno, root, "")}, next: rootIno + 1, freed: map[uint64]uint64{}}
	m.base = m.cache.clone()
	return m
}

func (m *model) add(now int64, s *step) {
	m.seq++
	s.seq, s.at = m.seq, now
	m.steps = append(m.steps, s)
}

func (m *model) pending() []*step {
	return slices.DeleteFunc(slices.Clone(m.steps), func(s *step) bool { return s.durable || s.erased })
}

func (m *model) of(ino uint64) []*step {
	return slices.DeleteFunc(m.pending(), func(s *step) bool { return s.ino != ino || s.kind == opNames })
}

// disk is what a posix filesystem certainly has.
func (m *model) disk() modelFS {
	d := m.base.clone()
	for _, s := range m.steps {
		if s.durable && !s.erased {
			d.redo(s, true, true, 0)
		}
	}
	return d
}

func (m *model) rename(now int64, entries []entry, moves bool, flushes uint64) {
	s := &step{kind: opNames, moves: moves, flushes: flushes}
	for _, e := range entries {
		d := m.cache[e.dir]
		e.was = d.names[e.name]
		if d.names[e.name] = e.ino; e.ino == 0 {
			delete(d.names, e.name)
		}
		d.mtime, d.ctime = now, now
		s.entries = append(s.entries, e)
	}
	m.add(now, s)
	for _, e := range s.entries {
		if f := m.cache[e.was]; f != nil && m.links(e.was) == 0 {
			if f.isDir() {
				s.emptied = e.was
			}
			m.free(e.was)
		}
	}
}

func (m *model) links(ino uint64) (n int) {
	for _, f := range m.cache {
		for _, child := range f.names {
			if child == ino {
				n++
			}
		}
	}
	return n
}

// free forgets a file that nobody can reach.
func (m *model) free(ino uint64) {
	f := m.cache[ino]
	if ino == rootIno || m.links(ino) > 0 || f.opens > 0 {
		return
	}
	delete(m.cache, ino)
	own := m.of(ino)
	var named []*step
	busy := false
	for _, s := range m.pending() {
		if s.names(ino) {
			named = append(named, s)
		}
		busy = busy || s.within(ino)
	}
	if len(own) > 0 && own[0].kind == opCreate && own[0].seq > m.journal && !busy {
		fleeting := len(named) == 0
		if len(named) == 2 {
			a, b := named[0], named[1]
			fleeting = len(a.entries) == 1 && len(b.entries) == 1 && a.sharesKey(b) && a.seq == own[0].seq+1
		}
		if fleeting {
			for _, s := range slices.Concat(own, named) {
				s.erased = true
			}
			return
		}
	}
	m.freed[ino] = m.seq
}

func (m *model) commit(seq uint64) {
	m.journal = max(m.journal, seq)
	for ino, since := range m.freed {
		if since <= m.journal {
			for _, s := range m.of(ino) {
				if s.kind != opCreate {
					s.erased = true
				}
			}
			delete(m.freed, ino)
		}
	}
}

func (m *model) writtenBack(seq uint64) {
	m.commit(seq)
	for _, s := range m.pending() {
		if s.seq <= seq {
			s.durable = true
		}
	}
}

func (m *model) create(dir uint64, name string, a attr, target string, now int64) {
	a.atime, a.mtime, a.ctime = now, now, now
	m.cache[m.next] = newModelFile(m.next, a, target)
	m.add(now, &step{kind: opCreate, ino: m.next, attr: a, text: target})
	m.rename(now, []entry{{dir: dir, name: name, ino: m.next}}, false, 0)
	m.next++
}

func (m *model) write(f *modelFile, off int64, data string, mis mishap, now int64) {
	f.mtime, f.ctime = now, now
	for len(data) > 0 {
		i := off / pageSize
		k := int(min(int64(len(data)), (i+1)*pageSize-off))
		s := &step{kind: opData, ino: f.ino, off: off, data: data[:k], alloc: !f.present[i]}
		f.put(off, []byte(data[:k]))
		if end := off + int64(k); end > f.size {
			f.size, s.end = end, end
		}
		if f.odd[i] {
			s.off, s.data = i*pageSize, string(f.bytes[i*pageSize:(i+1)*pageSize])
			delete(f.odd, i)
		}
		r := random{mis.seed, uint64(i)}
		if mis.action == Stale {
			s.lost = 0xff
		}
		if mis.action == Torn {
			s.lost = tear(r, int(s.off%pageSize), int(s.off%pageSize)+len(s.data))
		}
		if pages := (f.size + pageSize - 1) / pageSize; mis.action == Misdirect && pages > 1 {
			to := int64(r.below("page", uint64(pages-1)))
			if to >= i {
				to++
			}
			s.off += (to - i) * pageSize
			f.odd[i], f.odd[to] = true, true
		}
		if s.lost != 0 {
			f.odd[i] = true
		}
		m.add(now, s)
		data, off = data[k:], off+int64(k)
	}
}

func (m *model) sync(ino uint64, dataOnly bool) {
	touched, resized := false, false
	for _, s := range m.steps {
		if s.seq <= m.journal || s.ino != ino && !s.names(ino) && !s.within(ino) {
			continue
		}
		touched = true
		resized = resized || s.kind == opSize || s.kind == opZero || s.kind == opCreate || s.kind == opData && (s.end != 0 || s.alloc)
	}
	disk := m.disk()[ino]
	for _, s := range m.of(ino) {
		if s.kind != opAttr && s.kind != opXattr && (s.kind != opData || s.end != 0 || disk == nil || !disk.present[s.off/pageSize]) {
			resized = true
		}
		s.durable = true
	}
	if dataOnly && resized || !dataOnly && touched {
		m.commit(m.seq)
	}
}

// needs is what has to be on the disk before a change of names is.
func (m *model) needs(s *step) (before []*step) {
	for _, o := range m.steps {
		if o.seq < s.seq && o.kind == opNames && (o.sharesKey(s) || s.moves && o.moves || s.emptied != 0 && o.within(s.emptied)) {
			before = append(before, o)
		}
	}
	return before
}

func (m *model) syncDir(ino uint64) {
	touched := false
	want := map[*step]bool{}
	for _, s := range m.steps {
		if s.ino == ino || s.within(ino) || s.names(ino) {
			touched = touched || s.seq > m.journal
		}
	}
	for _, s := range m.pending() {
		if s.ino == ino && s.kind != opNames || s.within(ino) {
			want[s] = true
		}
	}
	for grown := true; grown; {
		grown = false
		for s := range want {
			if s.kind != opNames {
				continue
			}
			more := m.needs(s)
			for _, o := range m.steps {
				if o.kind == opCreate && slices.ContainsFunc(s.entries, func(e entry) bool { return e.ino == o.ino || e.dir == o.ino }) {
					more = append(more, o)
				}
			}
			for _, o := range more {
				if !want[o] && !o.durable && !o.erased {
					want[o], grown = true, true
				}
			}
		}
	}
	for s := range want {
		s.durable = true
	}
	if touched {
		m.commit(m.seq)
	}
}

func (m *model) failSync(ino uint64) {
	for _, s := range m.of(ino) {
		if s.kind == opData {
			s.erased = true
			if f := m.cache[ino]; f != nil {
				f.odd[s.off/pageSize] = true
			}
		}
	}
}

// promised is what a profile promises of the pending steps: those that are
// certain when everything up to seq has reached the journal.
func (m *model) promised(p Profile, seq uint64) map[uint64]bool {
	sure := map[uint64]bool{}
	for _, s := range m.pending() {
		switch {
		case p == Ext4Ordered && s.kind != opData && s.seq <= max(seq, m.journal):
			sure[s.seq] = true
			for _, o := range m.pending() {
				if o.kind == opData && o.ino == s.flushes && o.seq < s.seq {
					sure[o.seq] = true
				}
			}
		case p == LazyFS && s.kind != opData && s.kind != opSize && s.kind != opZero:
			sure[s.seq] = true
		}
	}
	return sure
}

// crash leaves what the fates say of the pending steps.
func (m *model) crash(fates map[uint64]fate) {
	d := m.base
	for _, s := range m.steps {
		f, ok := fates[s.seq]
		switch {
		case s.erased:
		case s.durable:
			d.redo(s, true, true, 0)
		case ok && (f.keep || f.size && s.end != 0):
			d.redo(s, f.keep, f.size, f.lost)
		}
	}
	d.settle()
	m.base, m.cache, m.steps = d, d.clone(), nil
	m.journal, m.freed = m.seq, map[uint64]uint64{}
}

func dirMode(mode uint32) uint32 { return mode | syscall.S_IFDIR }
func regMode(mode uint32) uint32 { return mode | syscall.S_IFREG }
