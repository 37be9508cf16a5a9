//go:build linux

package faultfs

import "testing"

// BenchmarkWrite is the core alone, without the kernel; nothing is synced.
func BenchmarkWrite(b *testing.B) {
	for name, size := range map[string]int64{"200B": 200, "4KB": 4 << 10, "1MB": 1 << 20} {
		b.Run(name, func(b *testing.B) {
			v := newVolume(attr{mode: dirMode(0o755)}, 4<<30)
			n, e := v.create(rootIno, "f", attr{mode: regMode(0o644)}, "", 1)
			if e != 0 {
				b.Fatal(e)
			}
			data, at := make([]byte, size), int64(0)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				if at+size > 64<<20 {
					at = 0
				}
				if _, e := v.write(n, at, data, mishap{}, 1); e != 0 {
					b.Fatal(e)
				}
				at += size
			}
		})
	}
}
