package kv

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/anishathalye/porcupine"
)

// This file is what the simulation compares the store with: a store of a few
// keys and one fence that does one thing at a time.

// simKeys are the keys of the simulation.
var simKeys = [...]string{"a", "b", "c"}

// cell is one key of the model. The value "" is a missing key; all others are
// written once in a run, so that they stand for revisions as well.
type cell struct {
	value string
	rev   int64 // of the write; -1 when no answer has told it yet
}

// modelState is the whole store of the model.
type modelState struct {
	cells [len(simKeys)]cell
	fence uint64
}

// opCode is what a client did.
type opCode uint8

const (
	doGet opCode = iota + 1
	doPut
	doSet
	doDelete
	doSwap  // writes all keys if one is as expected, reads them all otherwise
	doRaise // only shows its token to the fence: a write that was refused
)

// simInput is one call of a client.
type simInput struct {
	code   opCode
	key    int
	expect string // doSet and doSwap: the value whose revision is expected
	value  string
	token  uint64 // 0: not fenced
}

// simOutput is what it got.
type simOutput struct {
	unknown  bool // nobody knows whether it happened
	blind    bool // it happened, but of its answer only the revision is known
	fenced   bool
	conflict bool
	existed  bool
	rev      int64 // of the write
	cells    [len(simKeys)]cell
}

// step says whether the output is possible in a state, and what follows.
func step(s modelState, in simInput, out simOutput) (bool, modelState) {
	c := s.cells[in.key]
	if in.code == doGet {
		got := out.cells[in.key]
		s.cells[in.key].rev = got.rev
		return same(c, got), s
	}
	if in.token != 0 && s.fence > in.token {
		return out.fenced || out.unknown, s
	}
	s.fence = max(s.fence, in.token)
	switch {
	case out.fenced:
		return false, s
	case in.code == doRaise:
		return true, s
	}
	rev := out.rev
	if out.unknown {
		rev = -1
	}
	holds := in.code == doPut || in.code == doDelete || c.value == in.expect
	switch {
	case !holds:
		if out.conflict && in.code == doSwap && !out.blind {
			for i, got := range out.cells {
				if !same(s.cells[i], got) {
					return false, s
				}
				s.cells[i].rev = got.rev
			}
		}
		return out.unknown || out.conflict, s
	case out.conflict:
		return false, s
	case in.code == doDelete:
		s.cells[in.key] = cell{}
		return out.unknown || out.blind || out.existed == (c.value != ""), s
	case in.code == doSwap:
		for i := range s.cells {
			s.cells[i] = cell{fmt.Sprint(in.value, simKeys[i]), rev}
		}
	default:
		s.cells[in.key] = cell{in.value, rev}
	}
	return true, s
}

// same: what was read is what is there.
func same(is, got cell) bool {
	return is.value == got.value && (is.rev == got.rev || is.rev == -1)
}

// history is what all clients did, on a clock that counts events: two calls
// overlap only if they really did.
type history struct {
	mu   sync.Mutex // guards the fields below
	tick int64
	ops  []porcupine.Operation
}

// now is the next instant.
func (h *history) now() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tick++
	return h.tick
}

// add notes a finished call; one of unknown outcome may happen at any later
// time.
func (h *history) add(client int, in simInput, call int64, out simOutput) {
	end := h.now()
	if out.unknown {
		end = math.MaxInt64
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: end})
}

// check says whether one thing at a time explains the history.
func (h *history) check() error {
	model := porcupine.Model{
		Init: func() any { return modelState{} },
		Step: func(state, in, out any) (bool, any) {
			return step(state.(modelState), in.(simInput), out.(simOutput))
		},
	}
	switch porcupine.CheckOperationsTimeout(model, h.ops, checkTimeout) {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("the checker could not decide on %d operations", len(h.ops))
	case porcupine.Illegal:
	}
	return fmt.Errorf("not linearizable:\n%s", h)
}

// String is the history by time of call.
func (h *history) String() string {
	ops := slices.Clone(h.ops)
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var b strings.Builder
	for _, op := range ops {
		end := fmt.Sprint(op.Return)
		if op.Return == math.MaxInt64 {
			end = "…"
		}
		fmt.Fprintf(&b, "%5d %5s  client %d  %v -> %v\n", op.Call, end, op.ClientId, op.Input, op.Output)
	}
	return b.String()
}

// String is the call as it would be written.
func (in simInput) String() string {
	name := [...]string{"?", "get", "put", "set", "delete", "swap", "raise"}[in.code] + " " + simKeys[in.key]
	if in.code == doSet || in.code == doSwap {
		name += fmt.Sprintf(" if %q", in.expect)
	}
	if in.value != "" {
		name += " = " + in.value
	}
	if in.token != 0 {
		name += fmt.Sprint(" fence ", in.token)
	}
	return name
}

// String is the answer in words.
func (out simOutput) String() string {
	var words []string
	for word, is := range map[string]bool{
		"unknown": out.unknown, "resolved": out.blind, "fenced": out.fenced, "conflict": out.conflict, "existed": out.existed,
	} {
		if is {
			words = append(words, word)
		}
	}
	if out.rev != 0 {
		words = append(words, fmt.Sprint("revision ", out.rev))
	}
	for i, c := range out.cells {
		if c != (cell{}) {
			words = append(words, fmt.Sprintf("%s=%s@%d", simKeys[i], c.value, c.rev))
		}
	}
	if len(words) == 0 {
		return "nothing"
	}
	return strings.Join(words, " ")
}
