package vclock

import (
	"bytes"
	"encoding/binary"
	"errors"
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
	for _, symbol := range []string{
		"0000000000000080 t gettime\n", "00000000000000ab t gettimeofday\n", "00000000000000ff t time\n",
	} {
		if !strings.Contains(string(out), symbol) {
			t.Errorf("no symbol %q in\n%s", symbol, out)
		}
	}
	if shimGettime != 0x80 || shimGettimeofday != 0xab || shimTime != 0xff {
		t.Error("the functions are elsewhere")
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
	copy(patched[p.shim:], shim(7, settings{}))
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
	copy(full[over.shim:], shim(7, settings{}))
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
