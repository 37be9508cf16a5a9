//go:build linux

package faultfs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// machine drives core and model side by side.
type machine struct {
	v    *volume
	m    *model
	now  int64
	back uint64
}

func newMachine(quota int64) *machine {
	root := attr{mode: dirMode(0o755)}
	return &machine{v: newVolume(root, quota), m: newModel(root), now: 1e18}
}

// relieved tells the model what the core wrote back of its own accord, which it
// does before it carries out an operation.
func (x *machine) relieved() {
	if x.v.backTo != x.back {
		x.back = x.v.backTo
		x.m.writtenBack(x.back)
	}
}

// pick draws one of the files that will do; it is nil when there is none, and
// then there is nothing to be done.
func (x *machine) pick(t *rapid.T, label string, ok func(f *modelFile) bool) *modelFile {
	var list []uint64
	for _, ino := range slices.Sorted(maps.Keys(x.m.cache)) {
		if ok(x.m.cache[ino]) {
			list = append(list, ino)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return x.m.cache[rapid.SampledFrom(list).Draw(t, label)]
}

func isDirFile(f *modelFile) bool { return f.isDir() }
func isRegFile(f *modelFile) bool { return f.isReg() }

func (x *machine) dir(t *rapid.T) uint64 { return x.pick(t, "dir", isDirFile).ino }

func (x *machine) file(t *rapid.T) (*inode, *modelFile) {
	f := x.pick(t, "file", isRegFile)
	if f == nil {
		return nil, nil
	}
	return x.v.cache.inodes[f.ino], f
}

var someName = rapid.SampledFrom([]string{"a", "b", "c"})

// some offsets and sizes near the borders of pages and sectors.
var someOffset = rapid.Custom(func(t *rapid.T) int64 {
	return max(0, rapid.SampledFrom([]int64{0, 0, 512, pageSize, 2 * pageSize, 3 * pageSize}).Draw(t, "at")+rapid.Int64Range(-3, 3).Draw(t, "by"))
})

func (x *machine) create(t *rapid.T, dir uint64, name string, mode uint32, target string) {
	want := syscall.Errno(0)
	if x.m.cache[dir].names[name] != 0 {
		want = syscall.EEXIST
	} else if x.m.links(dir) == 0 && dir != rootIno {
		want = syscall.ENOENT
	}
	a := attr{mode: mode, uid: uint32(dir), gid: 7}
	if _, e := x.v.create(dir, name, a, target, x.now); e != want {
		t.Fatalf("create: %v, want %v", e, want)
	}
	if x.relieved(); want == 0 {
		x.m.create(dir, name, a, target, x.now)
	}
}

func (x *machine) rename(t *rapid.T) {
	from, to := x.dir(t), x.dir(t)
	a, b := someName.Draw(t, "old"), someName.Draw(t, "new")
	flags := rapid.SampledFrom([]uint32{0, 0, 0, renameNoReplace, renameExchange}).Draw(t, "flags")
	f, g := x.m.cache[x.m.cache[from].names[a]], x.m.cache[x.m.cache[to].names[b]]
	e := x.v.rename(from, a, to, b, flags, x.now)
	x.relieved()
	inside := func(dir uint64, f *modelFile) bool {
		var in func(at uint64) bool
		in = func(at uint64) bool {
			return at == dir || slices.ContainsFunc(slices.Collect(maps.Values(x.m.cache[at].names)), in)
		}
		return f.isDir() && in(f.ino)
	}
	var want syscall.Errno
	switch {
	case f == nil:
		want = syscall.ENOENT
	case to != rootIno && x.m.links(to) == 0:
		want = syscall.ENOENT
	case flags == renameNoReplace && g != nil:
		want = syscall.EEXIST
	case flags == renameExchange && g == nil:
		want = syscall.ENOENT
	case inside(to, f) || flags == renameExchange && inside(from, g):
		want = syscall.EINVAL
	case f == g:
		if e != 0 {
			t.Fatal(e)
		}
		return
	case flags == renameExchange:
		x.m.rename(x.now, []entry{{dir: from, name: a, ino: g.ino}, {dir: to, name: b, ino: f.ino}}, from != to && (f.isDir() || g.isDir()), 0)
	case g != nil && f.isDir() && !g.isDir():
		want = syscall.ENOTDIR
	case g != nil && !f.isDir() && g.isDir():
		want = syscall.EISDIR
	case g != nil && len(g.names) > 0:
		want = syscall.ENOTEMPTY
	default:
		flush := uint64(0)
		if g != nil {
			flush = f.ino
		}
		x.m.rename(x.now, []entry{{dir: from, name: a}, {dir: to, name: b, ino: f.ino}}, from != to && f.isDir(), flush)
	}
	if e != want {
		t.Fatalf("rename: %v, want %v", e, want)
	}
}

func (x *machine) remove(t *rapid.T) {
	dir, name := x.dir(t), someName.Draw(t, "name")
	wantDir := rapid.Bool().Draw(t, "rmdir")
	f := x.m.cache[x.m.cache[dir].names[name]]
	e := x.v.remove(dir, name, wantDir, x.now)
	x.relieved()
	var want syscall.Errno
	switch {
	case f == nil:
		want = syscall.ENOENT
	case wantDir && !f.isDir():
		want = syscall.ENOTDIR
	case !wantDir && f.isDir():
		want = syscall.EISDIR
	case len(f.names) > 0:
		want = syscall.ENOTEMPTY
	default:
		x.m.rename(x.now, []entry{{dir: dir, name: name}}, false, 0)
	}
	if e != want {
		t.Fatalf("remove: %v, want %v", e, want)
	}
}

func (x *machine) write(t *rapid.T) {
	n, f := x.file(t)
	if f == nil {
		return
	}
	off := someOffset.Draw(t, "off")
	size := rapid.SampledFrom([]int{1, 100, 600, pageSize, pageSize + 10, 2 * pageSize}).Draw(t, "size")
	data := strings.Repeat(rapid.SampledFrom([]string{"A", "B", "C", "D"}).Draw(t, "data"), size)
	mis := mishap{rapid.SampledFrom([]Action{"", "", "", "", Stale, Torn, Misdirect}).Draw(t, "mishap"), rapid.Uint64Range(0, 5).Draw(t, "seed")}
	_, e := x.v.write(n, off, []byte(data), mis, x.now)
	x.relieved()
	if e == syscall.ENOSPC {
		need := int64(0)
		for i := off / pageSize; i <= (off+int64(size)-1)/pageSize; i++ {
			if !f.present[i] {
				need += pageSize
			}
		}
		if x.used()+need <= x.v.quota {
			t.Fatal("no space, though there is")
		}
		return
	}
	if e != 0 {
		t.Fatal(e)
	}
	x.m.write(f, off, data, mis, x.now)
}

func (x *machine) used() (n int64) {
	for _, f := range x.m.cache {
		n += int64(len(f.present)) * pageSize
	}
	return n
}

func (x *machine) resize(t *rapid.T) {
	n, f := x.file(t)
	if f == nil {
		return
	}
	size := someOffset.Draw(t, "size")
	if e := x.v.truncate(n, size, x.now); e != 0 {
		t.Fatal(e)
	}
	x.relieved()
	f.emptied = f.emptied || size == 0 && f.size > 0
	f.zero(size, 1<<60)
	f.size, f.mtime, f.ctime = size, x.now, x.now
	x.m.add(x.now, &step{kind: opSize, ino: f.ino, off: size})
}

func (x *machine) allocate(t *rapid.T) {
	n, f := x.file(t)
	if f == nil {
		return
	}
	mode := rapid.SampledFrom([]uint32{0, fallocKeepSize, fallocPunchHole | fallocKeepSize, fallocZeroRange, fallocZeroRange | fallocKeepSize}).Draw(t, "mode")
	off, length := someOffset.Draw(t, "off"), 1+someOffset.Draw(t, "length")
	e := x.v.allocate(n, mode, off, length, x.now)
	if x.relieved(); e == syscall.ENOSPC && mode&^fallocKeepSize == 0 {
		return
	}
	if e != 0 {
		t.Fatal(e)
	}
	if mode&^fallocKeepSize != 0 {
		f.zero(off, off+length)
		f.mtime, f.ctime = x.now, x.now
		x.m.add(x.now, &step{kind: opZero, ino: f.ino, off: off, end: off + length})
	}
	if mode&fallocKeepSize == 0 && off+length > f.size {
		f.size, f.mtime, f.ctime = off+length, x.now, x.now
		x.m.add(x.now, &step{kind: opSize, ino: f.ino, off: off + length})
	}
}

func (x *machine) crash(t *rapid.T) {
	c := Crash{
		Profile: rapid.SampledFrom([]Profile{Posix, Ext4Ordered, LazyFS}).Draw(t, "profile"),
		Policy:  rapid.SampledFrom([]Policy{LoseAll, Aged, Subset, Prefix, TornTail}).Draw(t, "policy"),
		Age:     rapid.SampledFrom([]time.Duration{time.Second, 5 * time.Second}).Draw(t, "age"),
		Seed:    rapid.Uint64Range(0, 1000).Draw(t, "seed"),
	}
	ops := pendingOf(slices.Clone(x.v.log))
	fates := x.v.choose(ops, c, x.now)
	x.allowed(t, c, ops, fates)
	byOp := map[uint64]fate{}
	for i, o := range ops {
		byOp[o.seq] = fates[i]
	}
	before := essence(x.v.cache)
	losses := x.v.crash(c, x.now)
	x.m.crash(byOp)
	x.back = x.v.backTo
	x.compare(t)
	if after := essence(x.v.cache); losses.Bytes == 0 && losses.Files == 0 && losses.Entries == 0 && !slices.Equal(before, after) {
		t.Fatalf("nothing lost, but\n%s\nbecame\n%s", before, after)
	}
}

// essence is what Losses speak of: entries and content.
func essence(m *image) (lines []string) {
	m.walk(func(path string, n *inode) {
		b := make([]byte, n.size)
		n.data.read(b, 0)
		lines = append(lines, fmt.Sprintf("%s %d %o %s", path, n.ino, n.kind(), shorten(string(b))))
	})
	return lines
}

// allowed checks a choice against what profile and policy say, with the model's
// own idea of what the steps need.
func (x *machine) allowed(t *rapid.T, c Crash, ops []*op, fates []fate) {
	steps := map[uint64]*step{}
	for _, s := range x.m.pending() {
		steps[s.seq] = s
	}
	fate := map[uint64]fate{}
	var top uint64 // of the metadata that survives
	for i, o := range ops {
		if steps[o.seq] == nil || steps[o.seq].kind != o.kind {
			t.Fatalf("the model knows nothing of pending op %+v", o)
		}
		fate[o.seq] = fates[i]
		if fates[i].keep && o.kind != opData {
			top = o.seq
		}
	}
	sure := x.m.promised(c.Profile, 0)
	var cut uint64
	for i, o := range ops {
		if sure[o.seq] && !fates[i].keep {
			t.Fatalf("%v loses what is promised: %+v", c, steps[o.seq])
		}
		if !sure[o.seq] && (fates[i].keep || fates[i].size) {
			cut = o.seq
		}
	}
	whole := x.m.promised(c.Profile, cut)
	for i, o := range ops {
		s, f := steps[o.seq], fates[i]
		switch c.Policy {
		case LoseAll:
			if cut != 0 {
				t.Fatalf("%v keeps %+v", c, s)
			}
		case Aged:
			if old := o.at <= x.now-int64(c.Age); f.keep != (old || whole[o.seq]) {
				t.Fatalf("%v: old %v, kept %v: %+v", c, old, f.keep, s)
			}
		case Prefix, TornTail:
			if torn := c.Policy == TornTail && o.seq == cut; !torn && f.keep != (o.seq <= cut || whole[o.seq]) {
				t.Fatalf("%v: kept up to %d, but %v: %+v", c, cut, f.keep, s)
			}
			if f.lost != 0 && (c.Policy == Prefix || o.kind != opData) {
				t.Fatalf("%v tears %+v", c, s)
			}
		case Subset:
			x.allowedSubset(t, c, s, f, fate, top)
		}
	}
}

func (x *machine) allowedSubset(t *rapid.T, c Crash, s *step, f fate, all map[uint64]fate, top uint64) {
	if !f.keep && !f.size {
		return
	}
	keeps := func(o *step) bool { return o.durable || o.erased || all[o.seq].keep }
	if s.kind == opNames && c.Profile == Posix {
		for _, o := range x.m.needs(s) {
			if !keeps(o) {
				t.Fatalf("%v keeps %+v without %+v", c, s, o)
			}
		}
	}
	if c.Profile == Ext4Ordered && s.kind != opData {
		for _, o := range x.m.pending() {
			if _, known := all[o.seq]; known && o.kind != opData && o.seq < top && !keeps(o) {
				t.Fatalf("%v: the journal has a hole: %+v", c, o)
			}
		}
	}
	for _, o := range x.m.of(s.ino) {
		if s.kind == opNames || o.seq >= s.seq {
			break
		}
		content := s.kind == opData || s.kind == opSize || s.kind == opZero
		if content && (o.kind == opSize || o.kind == opZero) && !keeps(o) && !x.m.promised(c.Profile, top)[s.seq] {
			t.Fatalf("%v keeps what came after the cut %+v: %+v", c, o, s)
		}
		if c.Profile == Ext4Ordered && s.end != 0 && o.end != 0 && s.kind == opData && o.kind == opData && f.size && !keeps(o) {
			t.Fatalf("%v: the file grew over %+v", c, o)
		}
	}
}

func (x *machine) compare(t *rapid.T) {
	have, want := showImage(x.v.cache), x.m.cache.show()
	if !slices.Equal(have, want) {
		t.Fatalf("have\n%s\nwant\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
	if x.v.used != x.used() {
		t.Fatalf("used %d, want %d", x.v.used, x.used())
	}
}

// check is what holds at any time.
func (x *machine) check(t *rapid.T) {
	x.compare(t)
	if len(x.v.cache.inodes) != len(x.m.cache) {
		t.Fatalf("%d inodes, want %d", len(x.v.cache.inodes), len(x.m.cache))
	}
	live, bytes := 0, int64(0)
	for _, o := range x.v.log {
		if !o.done {
			live++
			bytes += o.bytes()
		}
	}
	if live != x.v.live || bytes != x.v.bytes {
		t.Fatalf("pending %d and %d bytes, counted %d and %d", live, bytes, x.v.live, x.v.bytes)
	}
	if x.v.seq != x.m.seq || x.v.journal != x.m.journal {
		t.Fatalf("seq %d, journal %d, want %d, %d", x.v.seq, x.v.journal, x.m.seq, x.m.journal)
	}
}

func TestVolumeAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := newMachine(rapid.SampledFrom([]int64{1 << 30, 1 << 30, 10 * pageSize}).Draw(t, "quota"))
		if rapid.Bool().Draw(t, "short of memory") {
			x.v.maxOps = 12
		}
		act := func(f func(t *rapid.T)) func(t *rapid.T) {
			return func(t *rapid.T) {
				x.now += int64(rapid.SampledFrom([]time.Duration{0, time.Millisecond, 2 * time.Second}).Draw(t, "later"))
				f(t)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"create": act(func(t *rapid.T) { x.create(t, x.dir(t), someName.Draw(t, "name"), regMode(0o644), "") }),
			"mkdir":  act(func(t *rapid.T) { x.create(t, x.dir(t), someName.Draw(t, "name"), dirMode(0o700), "") }),
			"symlink": act(func(t *rapid.T) {
				x.create(t, x.dir(t), someName.Draw(t, "name"), syscall.S_IFLNK|0o777, "somewhere")
			}),
			"rename": act(x.rename), "rename more": act(x.rename), "remove": act(x.remove),
			"write": act(x.write), "write more": act(x.write), "truncate": act(x.resize), "allocate": act(x.allocate),
			"link": act(func(t *rapid.T) {
				f, dir, name := x.pick(t, "file", func(f *modelFile) bool { return !f.isDir() }), x.dir(t), someName.Draw(t, "name")
				if f == nil {
					return
				}
				_, e := x.v.link(f.ino, dir, name, x.now)
				if x.relieved(); e == 0 {
					x.m.rename(x.now, []entry{{dir: dir, name: name, ino: f.ino}}, false, 0)
				} else if gone := dir != rootIno && x.m.links(dir) == 0; x.m.cache[dir].names[name] == 0 && !gone {
					t.Fatal(e)
				}
			}),
			"chmod": act(func(t *rapid.T) {
				f := x.pick(t, "file", func(*modelFile) bool { return true })
				if f == nil {
					return
				}
				mode := rapid.SampledFrom([]uint32{0o600, 0o4755}).Draw(t, "mode")
				x.v.setAttr(x.v.cache.inodes[f.ino], x.now, func(a *attr) { a.mode = mode })
				x.relieved()
				f.mode, f.ctime = f.kind()|mode, x.now
				x.m.add(x.now, &step{kind: opAttr, ino: f.ino, attr: f.attr})
			}),
			"xattr": act(func(t *rapid.T) {
				f := x.pick(t, "file", func(*modelFile) bool { return true })
				if f == nil {
					return
				}
				value := rapid.SampledFrom([]string{"1", "2"}).Draw(t, "value")
				if e := x.v.setXattr(x.v.cache.inodes[f.ino], "user.x", []byte(value), 0, x.now); e != 0 {
					t.Fatal(e)
				}
				x.relieved()
				f.xattr["user.x"] = value
				x.m.add(x.now, &step{kind: opXattr, ino: f.ino, text: "user.x", value: &value})
			}),
			"open": func(t *rapid.T) {
				n, f := x.file(t)
				if f == nil {
					return
				}
				f.opens++
				x.v.opened(n)
			},
			"close": func(t *rapid.T) {
				f := x.pick(t, "file", func(f *modelFile) bool { return f.opens > 0 })
				if f == nil {
					return
				}
				n := x.v.cache.inodes[f.ino]
				x.v.flushed(n, x.now)
				if f.emptied {
					f.emptied = false
					x.m.add(x.now, &step{kind: opBarrier, ino: f.ino, flushes: f.ino})
				}
				f.opens--
				x.v.closed(n)
				x.m.free(f.ino)
			},
			"fsync": func(t *rapid.T) {
				f := x.pick(t, "file", func(f *modelFile) bool { return !f.isDir() })
				if f == nil {
					return
				}
				dataOnly := rapid.Bool().Draw(t, "data only")
				if e := x.v.sync(f.ino, dataOnly); e != 0 {
					t.Fatal(e)
				}
				x.m.sync(f.ino, dataOnly)
			},
			"fsync fails": func(t *rapid.T) {
				_, f := x.file(t)
				if f == nil {
					return
				}
				x.v.failSync(f.ino)
				x.m.failSync(f.ino)
			},
			"fsyncdir": func(t *rapid.T) {
				dir := x.dir(t)
				if e := x.v.syncDir(dir); e != 0 {
					t.Fatal(e)
				}
				x.m.syncDir(dir)
			},
			"syncfs": func(*rapid.T) {
				x.v.syncAll()
				x.m.writtenBack(x.m.seq)
			},
			"crash": x.crash,
			"":      x.check,
		})
		x.crash(t)
	})
}
