package vclock

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"holdfast.dev/internal/labtest"
)

// ownImage is the vDSO of this process.
func ownImage(t *testing.T) []byte {
	t.Helper()
	v, err := openVDSO(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	image, err := v.image()
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// TestShimSource assembles the source and compares.
func TestShimSource(t *testing.T) {
	as, objcopy := labtest.Server(t, "as", "binutils"), labtest.Server(t, "objcopy", "binutils")
	dir := t.TempDir()
	object, code := filepath.Join(dir, "shim.o"), filepath.Join(dir, "shim.bin")
	for _, args := range [][]string{
		{as, "-o", object, filepath.Join("testdata", "shim.s")},
		{objcopy, "-O", "binary", "-j", ".text", object, code},
	} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil { //nolint:gosec // of this test
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	want, err := os.ReadFile(code) //nolint:gosec // of this test
	if err != nil {
		t.Fatal(err)
	}
	if !allZero(want[:codeStart]) || !bytes.Equal(want[codeStart:], shimCode[:]) {
		t.Error("shim.go and testdata/shim.s differ")
	}
	nm := labtest.Server(t, "nm", "binutils")
	out, err := exec.CommandContext(t.Context(), nm, object).Output()
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]int{
		"gettime": shimGettime, "gettimeofday": shimGettimeofday, "time": shimTime, "clock": shimClock,
	} {
		if symbol := fmt.Sprintf("%016x t %s\n", at, name); !strings.Contains(string(out), symbol) {
			t.Errorf("no symbol %q in\n%s", symbol, out)
		}
	}
	if len(want) != shimClock+clockRoom {
		t.Errorf("%d bytes, want %d", len(want), shimClock+clockRoom)
	}
}

func TestPlan(t *testing.T) {
	image := ownImage(t)
	p, err := planFor(image)
	if err != nil {
		t.Fatal(err)
	}
	end := p.shim + codeStart + len(shimCode)
	if p.shim%shimAlign != 0 || end > len(image) || !allZero(image[p.shim:end]) || p.marked || len(p.hooks) != 3 {
		t.Errorf("%+v", p)
	}
	// With the shim in it the plan is the same, and says so.
	patched := bytes.Clone(image)
	copy(patched[p.shim:], p.code(7, settings{}))
	for _, h := range p.hooks {
		copy(patched[h.at:], jump(h.at, p.shim+h.target))
		relative := int32(binary.LittleEndian.Uint32(patched[h.at+1:])) //nolint:gosec // two's complement
		if patched[h.at] != 0xe9 || h.at+jumpLen+int(relative) != p.shim+h.target {
			t.Errorf("the jump at %x goes to %x", h.at, h.at+jumpLen+int(relative))
		}
	}
	again, err := planFor(patched)
	if err != nil || !again.marked || again.shim != p.shim {
		t.Errorf("of a patched image: %+v, %v", again, err)
	}
	// With something behind the file, it goes over the section headers.
	full := bytes.Clone(image)
	for i := p.shim; i < len(full); i++ {
		full[i] = 1
	}
	over, err := planFor(full)
	if err != nil || over.shim >= p.shim || over.marked {
		t.Errorf("of a full image: %+v, %v", over, err)
	}
	copy(full[over.shim:], p.code(7, settings{}))
	if again, err := planFor(full); err != nil || !again.marked || again.shim != over.shim {
		t.Errorf("of a full, patched image: %+v, %v", again, err)
	}
}

func TestPlanRefuses(t *testing.T) {
	image := ownImage(t)
	for name, tc := range map[string]struct {
		change func([]byte) []byte
		want   error
	}{
		"empty":   {func([]byte) []byte { return nil }, errBadVDSO},
		"text":    {func([]byte) []byte { return bytes.Repeat([]byte("no"), 4096) }, errBadVDSO},
		"32 bits": {func(b []byte) []byte { b[4] = 1; return b }, errNot64},
		"machine": {func(b []byte) []byte { b[18] = 183; return b }, errBadVDSO},
		"no name": {func(b []byte) []byte { return bytes.Replace(b, []byte("__vdso_time"), []byte("__vdso_tame"), 1) }, errBadVDSO},
		"no room": {func(b []byte) []byte {
			p, _ := planFor(b)
			over := b[:p.shim]
			for i := 0; i < len(over)-elfProgLen; i += 8 { // the segment that is loaded becomes all there is
				if i >= elfHeaderLen && binary.LittleEndian.Uint32(over[i:]) == ptLoad && i < elfHeaderLen+4*elfProgLen {
					binary.LittleEndian.PutUint64(over[i+32:], uint64(len(over)))
					break
				}
			}
			return over
		}, errNoRoom},
	} {
		if _, err := planFor(tc.change(bytes.Clone(image))); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}

// TestPlanSurvives gives it images that are cut and damaged: what it plans stays
// inside.
func TestPlanSurvives(t *testing.T) {
	whole := ownImage(t)
	rapid.Check(t, func(t *rapid.T) {
		image := bytes.Clone(whole[:rapid.IntRange(0, len(whole)).Draw(t, "length")])
		for range rapid.IntRange(0, 8).Draw(t, "changes") {
			if len(image) == 0 {
				break
			}
			at := rapid.IntRange(0, min(len(image), 0x500)-1).Draw(t, "at")
			image[at] = rapid.Byte().Draw(t, "byte")
		}
		p, err := planFor(image)
		if err != nil {
			return
		}
		if p.shim < 0 || p.shim+codeStart+len(shimCode) > len(image) {
			t.Fatalf("%+v of %d bytes", p, len(image))
		}
		for _, h := range p.hooks {
			if h.at < 0 || h.at+jumpLen > len(image) {
				t.Fatalf("%+v of %d bytes", p, len(image))
			}
		}
	})
}

func TestRelocate(t *testing.T) {
	const from, to = 0xaf0, 0x1a80
	for _, tc := range []struct {
		code, want string // what is moved; "" is nothing
	}{
		{"55 48 89 e5 41 56 53 48 83 e4 f0", "55 48 89 e5 41 56"},
		{"f3 0f 1e fa 55 48 89 e5", "f3 0f 1e fa 55"},
		{"83 ff 17 48 83 ec 10 90", "83 ff 17 48 83 ec 10"},
		{"b8 01 00 00 00 89 f9", "b8 01 00 00 00"},
		{"89 f9 31 c0 85 d2", "89 f9 31 c0 85 d2"},
		{"4d 31 c0 49 89 f8", "4d 31 c0 49 89 f8"},
		{"55 4c 8d 15 ea 94 ff ff 90", "55 4c 8d 15 5a 85 ff ff"},
		{"48 8d 05 00 10 00 00 c3", "48 8d 05 70 00 00 00"},
		{"0f 05 c3", ""},                // a system call
		{"55 eb 10", ""},                // a jump
		{"55 e8 00 00 00 00", ""},       // a call
		{"81 3d 3a 95 ff ff ff ff", ""}, // relative to where it is
		{"48 8b 05 00 10 00 00", ""},    // relative to where it is
		{"55 c3", ""},                   // the end
	} {
		code, want := unhex(t, tc.code), unhex(t, tc.want)
		code = append(code, make([]byte, 32)...)
		if want != nil {
			want = append(want, jump(to+len(want), from+len(want))...)
		}
		if got := relocate(code, from, to); !bytes.Equal(got, want) {
			t.Errorf("%s: % x, want % x", tc.code, got, want)
		}
	}
	if got := relocate([]byte{0x55, 0x55, 0x55}, from, to); got != nil {
		t.Errorf("a function that is cut: % x", got)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	if s == "" {
		return nil
	}
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
