package history

import "fmt"

// Pair is a call by positions in its history.
type Pair struct {
	Invoke   int
	Complete int // -1 where the history ends first
}

// Pairs finds the completion of each invocation, by process, and returns the
// calls in the order of their invocations. Operations of the nemesis are left
// out. It is an error if a process begins a call before its last one ended,
// ends one that it has not begun, or ends it before it began; a process may
// go on after an Info.
func (h History) Pairs() ([]Pair, error) {
	open := make(map[int]int) // process to position in pairs
	pairs := make([]Pair, 0, len(h)/2+1)
	for i := range h {
		op := &h[i]
		if op.Process == Nemesis {
			continue
		}
		at, busy := open[op.Process]
		busy = busy && at >= 0
		switch op.Type {
		case Invoke:
			if busy {
				return nil, malformed(op, "begins %s while its call at index %d is open", op.F, h[pairs[at].Invoke].Index)
			}
			open[op.Process] = len(pairs)
			pairs = append(pairs, Pair{Invoke: i, Complete: -1})
		case OK, Fail, Info:
			if !busy {
				return nil, malformed(op, "ends %s (%s) without having begun it", op.F, op.Type)
			}
			began := &h[pairs[at].Invoke]
			if began.F != op.F {
				return nil, malformed(op, "ends %s where its open call, at index %d, is %s", op.F, began.Index, began.F)
			}
			if op.Time < began.Time {
				return nil, malformed(op, "ends %s at %v, before it began at %v, index %d", op.F, op.Time, began.Time, began.Index)
			}
			pairs[at].Complete = i
			open[op.Process] = -1
		default:
			return nil, malformed(op, "has type %q, want invoke, ok, fail or info", op.Type)
		}
	}
	return pairs, nil
}

func malformed(op *Op, format string, args ...any) error {
	return fmt.Errorf("index %d: process %d %s", op.Index, op.Process, fmt.Sprintf(format, args...))
}

// Calls is Pairs with the operations themselves.
//
// Histories without times (every time is zero) get the positions of their
// operations instead, in nanoseconds: their order is all that is known.
func (h History) Calls() ([]Call, error) {
	pairs, err := h.Pairs()
	if err != nil {
		return nil, err
	}
	timeless := h.Timeless()
	calls := make([]Call, len(pairs))
	for i, p := range pairs {
		c := &calls[i]
		c.Invoke = h[p.Invoke]
		if timeless {
			c.Invoke.Time = stamp(p.Invoke)
		}
		if p.Complete < 0 {
			c.Complete = c.Invoke
			c.Complete.Index, c.Complete.Type, c.Complete.Time = -1, Info, Never
			continue
		}
		c.Complete = h[p.Complete]
		if timeless {
			c.Complete.Time = stamp(p.Complete)
		}
	}
	return calls, nil
}
