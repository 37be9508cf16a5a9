package vclock

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Why a process cannot be patched.
var (
	errNot64   = errors.New("it is a 32-bit program")
	errNoVDSO  = errors.New("it has no vDSO")
	errNoRoom  = errors.New("its vDSO has no room for the shim")
	errBadVDSO = errors.New("its vDSO is not understood")
)

// plan is where the shim goes in a vDSO, and what jumps to it.
type plan struct {
	shim   int  // offset of the data
	marked bool // there is a shim already
	hooks  []hook
	clock  []byte // the code at shimClock that goes on in the vDSO; nil: a system call
}

// hook is a function of the vDSO and what replaces it.
type hook struct {
	at     int // offset of the function
	target int // offset in the shim
}

// jumpLen is the length of a jump to a 32-bit relative address.
const jumpLen = 5

// hooked are the functions that read the wall clock. clock_getres stays.
var hooked = map[string]int{
	"__vdso_clock_gettime": shimGettime,
	"__vdso_gettimeofday":  shimGettimeofday,
	"__vdso_time":          shimTime,
}

const (
	elfHeaderLen  = 64
	elfProgLen    = 56
	elfSectionLen = 64
	elfSymbolLen  = 24
	elfDynamicLen = 16

	ptLoad, ptDynamic               = 1, 2
	dtNull, dtHash, dtStrTab, dtSym = 0, 4, 5, 6
	shimAlign                       = 64
)

// planFor reads the ELF image that a process has as its vDSO, whole pages. The
// shim goes behind everything that is in the file; where that leaves no room,
// behind everything that is loaded, over section headers that nothing reads.
func planFor(image []byte) (plan, error) {
	le := binary.LittleEndian
	if len(image) < elfHeaderLen || string(image[:4]) != "\x7fELF" {
		return plan{}, errBadVDSO
	}
	if image[4] == 1 {
		return plan{}, errNot64
	}
	if image[4] != 2 || image[5] != 1 || le.Uint16(image[18:]) != 62 {
		return plan{}, errBadVDSO
	}
	phoff, phnum := le.Uint64(image[32:]), int(le.Uint16(image[56:]))
	shoff, shnum := le.Uint64(image[40:]), uint64(le.Uint16(image[60:]))
	size := uint64(len(image))
	if phoff > size || uint64(phnum)*elfProgLen > size-phoff {
		return plan{}, errBadVDSO
	}
	var base, loaded uint64
	var dynamic []byte
	seen := false
	for i := range phnum {
		p := image[phoff+uint64(i)*elfProgLen:]
		kind, off, vaddr, filesz := le.Uint32(p), le.Uint64(p[8:]), le.Uint64(p[16:]), le.Uint64(p[32:])
		if off > size || filesz > size-off {
			return plan{}, errBadVDSO
		}
		switch kind {
		case ptLoad:
			if !seen {
				base, seen = vaddr-off, true
			}
			loaded = max(loaded, off+filesz)
		case ptDynamic:
			dynamic = image[off : off+filesz]
		}
	}
	used := loaded
	if shoff < size && shnum*elfSectionLen <= size-shoff {
		used = max(used, shoff+shnum*elfSectionLen)
	}
	p, err := symbols(image, dynamic, base, loaded)
	if err != nil {
		return plan{}, err
	}
	need := uint64(codeStart + len(shimCode))
	for _, end := range []uint64{used, loaded} {
		at := (end + shimAlign - 1) &^ (shimAlign - 1)
		if at+need > size {
			continue
		}
		if le.Uint64(image[at+dataMark:]) == shimMark {
			p.shim, p.marked = int(at), true //nolint:gosec // less than the size
			return p, nil
		}
		if end == loaded || allZero(image[at:]) {
			p.shim = int(at) //nolint:gosec // less than the size
			for _, h := range p.hooks {
				if h.target == shimGettime {
					p.clock = relocate(image[h.at:], h.at, p.shim+shimClock)
				}
			}
			return p, nil
		}
	}
	return plan{}, errNoRoom
}

// symbols finds the functions to replace.
func symbols(image, dynamic []byte, base, loaded uint64) (plan, error) {
	le := binary.LittleEndian
	var symtab, strtab, hash uint64
	for ; len(dynamic) >= elfDynamicLen; dynamic = dynamic[elfDynamicLen:] {
		value := le.Uint64(dynamic[8:]) - base
		switch le.Uint64(dynamic) {
		case dtNull:
			dynamic = nil
		case dtHash:
			hash = value
		case dtStrTab:
			strtab = value
		case dtSym:
			symtab = value
		}
		if dynamic == nil {
			break
		}
	}
	size := uint64(len(image))
	if symtab == 0 || symtab >= size || strtab >= size || hash >= size-8 {
		return plan{}, errBadVDSO
	}
	// The table of symbols has no length of its own: it is that of the hash
	// table's chains, or the names follow it.
	var n uint64
	switch {
	case hash != 0:
		n = uint64(le.Uint32(image[hash+4:]))
	case strtab > symtab:
		n = (strtab - symtab) / elfSymbolLen
	}
	if n*elfSymbolLen > size-symtab {
		return plan{}, errBadVDSO
	}
	var p plan
	found := map[int]bool{}
	for i := range n {
		s := image[symtab+i*elfSymbolLen:]
		target, wanted := hooked[cString(image[strtab:], uint64(le.Uint32(s)))]
		if !wanted {
			continue
		}
		at, length := le.Uint64(s[8:])-base, le.Uint64(s[16:])
		if length < jumpLen || at > loaded || length > loaded-at {
			return plan{}, errBadVDSO
		}
		if !found[target] {
			found[target] = true
			p.hooks = append(p.hooks, hook{at: int(at), target: target}) //nolint:gosec // less than the size
		}
	}
	if !found[shimGettime] || !found[shimGettimeofday] || !found[shimTime] {
		return plan{}, fmt.Errorf("%w: a function is missing", errBadVDSO)
	}
	return p, nil
}

func cString(b []byte, at uint64) string {
	if at >= uint64(len(b)) {
		return ""
	}
	b = b[at:]
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return ""
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// relocate moves the instructions that a jump at the beginning of a function
// overwrites from one offset to another, and jumps back behind them. It knows those
// that compilers begin functions with; of others it returns nil.
func relocate(code []byte, from, to int) []byte {
	var moved []byte
	for len(moved) < jumpLen {
		rest := code[len(moved):]
		n := instruction(rest)
		if n == 0 || len(moved)+n > clockRoom-jumpLen {
			return nil
		}
		part := append([]byte{}, rest[:n]...)
		if relativeLEA(part) { // its operand is relative to where it is
			was := int32(binary.LittleEndian.Uint32(part[3:]))                         //nolint:gosec // two's complement
			binary.LittleEndian.PutUint32(part[3:], uint32(was+int32(from)-int32(to))) //nolint:gosec // within some pages
		}
		moved = append(moved, part...)
	}
	return append(moved, jump(to+len(moved), from+len(moved))...)
}

// instruction is the length of the first instruction, 0 of one that is not known
// not to depend on where it is (but relativeLEA).
func instruction(b []byte) int {
	if len(b) < 16 {
		return 0
	}
	registers := func(modrm byte) bool { return modrm>>6 == 3 } // both operands are
	switch {
	case b[0]&0xf8 == 0x50: // push
		return 1
	case b[0] == 0x41 && b[1]&0xf8 == 0x50: // push r8 to r15
		return 2
	case b[0] == 0xf3 && b[1] == 0x0f && b[2] == 0x1e && b[3] == 0xfa: // endbr64
		return 4
	case (b[0] == 0x89 || b[0] == 0x8b || b[0] == 0x31 || b[0] == 0x85) && registers(b[1]): // mov, xor, test
		return 2
	case b[0]&0xf8 == 0x48 && (b[1] == 0x89 || b[1] == 0x8b || b[1] == 0x31 || b[1] == 0x85) && registers(b[2]):
		return 3
	case b[0] == 0x83 && registers(b[1]): // add, and, sub, cmp with a byte
		return 3
	case b[0]&0xf8 == 0x48 && b[1] == 0x83 && registers(b[2]):
		return 4
	case b[0]&0xf8 == 0xb8: // mov of 4 bytes
		return 5
	case relativeLEA(b):
		return 7
	}
	return 0
}

// relativeLEA says whether it is lea reg, [rip+…].
func relativeLEA(b []byte) bool {
	return len(b) >= 7 && b[0]&0xfb == 0x48 && b[1] == 0x8d && b[2]&0xc7 == 0x05
}

// code returns the data and the code of the shim with these settings.
func (p plan) code(id uint64, s settings) []byte {
	le := binary.LittleEndian
	b := make([]byte, codeStart+len(shimCode))
	le.PutUint64(b[dataMark:], shimMark)
	le.PutUint64(b[dataID:], id)
	copy(b[dataSettings:], s.bytes())
	copy(b[codeStart:], shimCode[:])
	copy(b[shimClock:], p.clock)
	return b
}

func (s settings) bytes() []byte {
	b := make([]byte, 0, settingsSize)
	for _, v := range []uint64{uint64(s.jump), uint64(s.since), uint64(s.drift), s.mask} { //nolint:gosec // two's complement
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// jump is the instruction at offset from that goes on at offset to.
func jump(from, to int) []byte {
	return binary.LittleEndian.AppendUint32([]byte{0xe9}, uint32(int32(to-from-jumpLen))) //nolint:gosec // within some pages
}
