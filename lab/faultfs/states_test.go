//go:build linux

package faultfs

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// script drives a volume by names in its root.
type script struct {
	t   *testing.T
	v   *volume
	now int64
}

func (s *script) ino(name string) *inode {
	n, e := s.v.lookup(rootIno, name)
	if e != 0 {
		s.t.Fatal(name, e)
	}
	return n
}

func (s *script) create(name string) {
	if _, e := s.v.create(rootIno, name, attr{mode: regMode(0o644)}, "", s.now); e != 0 {
		s.t.Fatal(e)
	}
}

func (s *script) write(name, text string) {
	if _, e := s.v.write(s.ino(name), 0, []byte(text), mishap{}, s.now); e != 0 {
		s.t.Fatal(e)
	}
}

func (s *script) append(name, text string) {
	if _, e := s.v.write(s.ino(name), s.ino(name).size, []byte(text), mishap{}, s.now); e != 0 {
		s.t.Fatal(e)
	}
}

func (s *script) fsync(name string) {
	if e := s.v.sync(s.ino(name).ino, false); e != 0 {
		s.t.Fatal(e)
	}
}

func (s *script) fsyncdir() {
	if e := s.v.syncDir(rootIno); e != 0 {
		s.t.Fatal(e)
	}
}

func (s *script) empty(name string) {
	if e := s.v.truncate(s.ino(name), 0, s.now); e != 0 {
		s.t.Fatal(e)
	}
}

// replace renames the file t over f.
func (s *script) replace() {
	if e := s.v.rename(rootIno, "t", rootIno, "f", 0, s.now); e != 0 {
		s.t.Fatal(e)
	}
}

func (s *script) remove(name string) {
	if e := s.v.remove(rootIno, name, false, s.now); e != 0 {
		s.t.Fatal(e)
	}
}

func (s *script) close(name string) { s.v.flushed(s.ino(name), s.now) }

func (s *script) sync() { s.v.syncAll() }

// state of the file f after a power failure, in a word.
func state(m *image) string {
	n := m.inodes[m.inodes[rootIno].dir.get("f")]
	if n == nil {
		return "absent"
	}
	b := make([]byte, n.size)
	n.data.read(b, 0)
	text := strings.ReplaceAll(string(b), "\x00", "0")
	if text == "" {
		return "empty"
	}
	return text
}

// TestCrashStates enumerates what a power failure can leave after the ways in
// which programs write files, and compares with what the profiles stand for.
func TestCrashStates(t *testing.T) {
	for _, c := range []struct {
		name string
		run  func(s *script)
		want map[Profile]string // first what is left when everything goes that may
	}{
		{"nothing synced", func(s *script) {
			s.create("f")
			s.write("f", "new")
		}, map[Profile]string{Posix: "absent 000 empty new", Ext4Ordered: "absent empty new", LazyFS: "empty 000 new"}},
		{"fsync of the file alone", func(s *script) {
			s.create("f")
			s.write("f", "new")
			s.fsync("f")
		}, map[Profile]string{Posix: "absent new", Ext4Ordered: "new", LazyFS: "new"}},
		{"fsync of the directory alone", func(s *script) {
			s.create("f")
			s.write("f", "new")
			s.fsyncdir()
		}, map[Profile]string{Posix: "empty 000 new", Ext4Ordered: "empty new", LazyFS: "empty 000 new"}},
		{"fsync of both", func(s *script) {
			s.create("f")
			s.write("f", "new")
			s.fsync("f")
			s.fsyncdir()
		}, map[Profile]string{Posix: "new", Ext4Ordered: "new", LazyFS: "new"}},
		{"replaced without fsync", func(s *script) {
			s.create("f")
			s.write("f", "old")
			s.sync()
			s.create("t")
			s.write("t", "new")
			s.replace()
		}, map[Profile]string{Posix: "old 000 empty new", Ext4Ordered: "old new", LazyFS: "empty 000 new"}},
		{"replaced with fsync", func(s *script) {
			s.create("f")
			s.write("f", "old")
			s.sync()
			s.create("t")
			s.write("t", "new")
			s.fsync("t")
			s.replace()
		}, map[Profile]string{Posix: "old new", Ext4Ordered: "old new", LazyFS: "new"}},
		{"replaced with fsync of all", func(s *script) {
			s.create("f")
			s.write("f", "old")
			s.sync()
			s.create("t")
			s.write("t", "new")
			s.fsync("t")
			s.replace()
			s.fsyncdir()
		}, map[Profile]string{Posix: "new", Ext4Ordered: "new", LazyFS: "new"}},
		{"replaced, and another file synced", func(s *script) {
			s.create("f")
			s.create("g")
			s.write("f", "old")
			s.sync()
			s.create("t")
			s.write("t", "new")
			s.replace()
			s.write("g", "other")
			s.fsync("g")
		}, map[Profile]string{Posix: "old 000 empty new", Ext4Ordered: "new", LazyFS: "empty 000 new"}},
		{"made, and another file synced", func(s *script) {
			s.create("g")
			s.sync()
			s.create("f")
			s.write("f", "new")
			s.write("g", "other")
			s.fsync("g")
		}, map[Profile]string{Posix: "absent 000 empty new", Ext4Ordered: "empty new", LazyFS: "empty 000 new"}},
		{"written over in place", func(s *script) {
			s.create("f")
			s.write("f", "old")
			s.sync()
			s.empty("f")
			s.write("f", "new")
			s.close("f")
		}, map[Profile]string{Posix: "old 000 empty new", Ext4Ordered: "old empty new", LazyFS: "old 000 empty new"}},
		{"written over in place, and another file synced", func(s *script) {
			s.create("f")
			s.create("g")
			s.write("f", "old")
			s.sync()
			s.empty("f")
			s.write("f", "new")
			s.close("f")
			s.write("g", "other")
			s.fsync("g")
		}, map[Profile]string{Posix: "old 000 empty new", Ext4Ordered: "new", LazyFS: "old 000 empty new"}},
		{"appended", func(s *script) {
			s.create("f")
			s.write("f", "a")
			s.sync()
			s.append("f", "b")
			s.append("f", "c")
		}, map[Profile]string{Posix: "a a0 a00 a0c ab ab0 abc", Ext4Ordered: "a ab abc", LazyFS: "a a0 a00 a0c ab ab0 abc"}},
		{"removed", func(s *script) {
			s.create("f")
			s.write("f", "old")
			s.sync()
			s.remove("f")
		}, map[Profile]string{Posix: "old absent", Ext4Ordered: "old absent", LazyFS: "absent"}},
		{"fsync failed", func(s *script) {
			s.create("f")
			s.write("f", "old")
			s.sync()
			s.write("f", "new")
			s.v.failSync(s.ino("f").ino)
			s.fsync("f")
		}, map[Profile]string{Posix: "old", Ext4Ordered: "old", LazyFS: "old"}},
		{"fsync failed, written and synced again", func(s *script) {
			s.create("f")
			s.write("f", "old")
			s.sync()
			s.write("f", "new")
			s.v.failSync(s.ino("f").ino)
			s.append("f", "er")
			s.fsync("f")
		}, map[Profile]string{Posix: "newer", Ext4Ordered: "newer", LazyFS: "newer"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, profile := range []Profile{Posix, Ext4Ordered, LazyFS} {
				after := func(policy Policy, seed uint64) string {
					s := &script{t: t, v: newVolume(attr{mode: dirMode(0o755)}, 1<<30), now: 1}
					c.run(s)
					survivors := state(s.v.survivors(Crash{Profile: profile, Policy: policy, Seed: seed}, s.now))
					s.v.crash(Crash{Profile: profile, Policy: policy, Seed: seed}, s.now)
					if got := state(s.v.cache); got != survivors {
						t.Fatalf("the preview of a power failure shows %s, it left %s", survivors, got)
					}
					return survivors
				}
				least := after(LoseAll, 0)
				states := map[string]bool{least: true}
				for seed := range uint64(150) {
					states[after(Subset, seed)] = true
					states[after(Prefix, seed)] = true
				}
				delete(states, least)
				if got := strings.Join(append([]string{least}, slices.Sorted(maps.Keys(states))...), " "); got != c.want[profile] {
					t.Errorf("%s: %s, want %s", profile, got, c.want[profile])
				}
			}
		})
	}
}

// TestMemoryIsBounded: what is never synced is written back at some time, and
// what is gone takes no space.
func TestMemoryIsBounded(t *testing.T) {
	s := &script{t: t, v: newVolume(attr{mode: dirMode(0o755)}, 1<<30), now: 1}
	s.v.maxOps, s.v.maxBytes = 1000, 1<<20
	s.create("log")
	for range 5000 {
		s.append("log", strings.Repeat("x", 300))
	}
	if s.v.live > 1010 || s.v.bytes > 1<<20+pageSize || s.v.writtenBack == 0 || len(s.v.log) > 4000 {
		t.Errorf("%d pending, %d bytes, log %d", s.v.live, s.v.bytes, len(s.v.log))
	}
	for range 5000 {
		s.create("tmp")
		s.write("tmp", strings.Repeat("y", 3*pageSize))
		s.remove("tmp")
	}
	if before := s.v.live; before > 1010 {
		t.Error(before)
	}
	s.sync()
	if len(s.v.cache.inodes) != 2 || len(s.v.disk.inodes) != 2 || len(s.v.nodes) != 0 || s.v.bytes != 0 || s.v.live != 0 || len(s.v.zombies) != 0 {
		t.Errorf("%d and %d inodes, %d nodes, %d bytes in %d ops, %d zombies",
			len(s.v.cache.inodes), len(s.v.disk.inodes), len(s.v.nodes), s.v.bytes, s.v.live, len(s.v.zombies))
	}
	// Full pages are shared between what processes see and the disk.
	c, d := s.v.cache.inodes[2], s.v.disk.inodes[2]
	shared := int64(0)
	c.data.each(func(i int64, p *page) {
		if p == d.data.get(i) {
			shared++
		}
	})
	if shared < c.data.n*9/10 {
		t.Errorf("%d of %d pages are shared", shared, c.data.n)
	}
	s.remove("log")
	s.fsyncdir()
	if len(s.v.disk.inodes) != 1 || s.v.used != 0 {
		t.Error(len(s.v.disk.inodes), s.v.used)
	}
	s.create("sparse")
	if e := s.v.allocate(s.ino("sparse"), 0, 0, 64<<20, 1); e != 0 || s.v.used != 0 {
		t.Error(e, s.v.used)
	}
}
