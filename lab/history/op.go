package history

import "time"

// Type says where an operation is in its life, in Jepsen's words.
type Type string

// The types of an operation. Each call is one Invoke and at most one of the
// others; a call with no completion, or with Info, may have happened, may
// happen later, or never.
const (
	Invoke Type = "invoke" // the client is about to send it
	OK     Type = "ok"     // it happened
	Fail   Type = "fail"   // it certainly did not happen and never will
	Info   Type = "info"   // nobody knows
)

// Nemesis is the process that breaks things. Its operations are Info.
const Nemesis = -1

// Op is one line of a history: the beginning or the end of a call. The field
// names in JSON are Jepsen's, with two of our own, key and node. (There is no
// latency: it follows from the times.)
type Op struct {
	Index   int           `json:"index"`
	Time    time.Duration `json:"time"`            // since the start of the run, monotonic, in nanoseconds
	Process int           `json:"process"`         // one call at a time; Nemesis in JSON is "nemesis"
	Type    Type          `json:"type"`            //
	F       string        `json:"f"`               // read, write, cas, add, …
	Key     string        `json:"key,omitempty"`   // which of several independent objects
	Value   any           `json:"value"`           // nil, bool, int64, float64, string, []any or map[string]any: see Normalize
	Error   string        `json:"error,omitempty"` // why it failed or is unknown
	Node    string        `json:"node,omitempty"`  // the host the client talked to
}

// History is the operations in the order in which they were recorded, by
// ascending index. Times are the workers' own readings of one clock, taken
// before the invocation and after the completion were recorded or sent: those
// of different processes may be out of order by the moment that recording
// takes. Order between calls is therefore decided by times, never by position.
type History []Op

// Call is an invocation and how it ended.
type Call struct {
	Invoke   Op
	Complete Op // its Type is Info where nobody knows; where the history ends first its Index is -1 too
}

// End is when the call had its effect at the latest: the time of its
// completion, or Never if nobody knows its outcome.
func (c *Call) End() time.Duration {
	if c.Complete.Type == Info {
		return Never
	}
	return c.Complete.Time
}

// Never is the end of calls whose effect may still be to come.
const Never = time.Duration(1<<63 - 1)

// Timeless reports whether no operation has a time.
func (h History) Timeless() bool {
	for i := range h {
		if h[i].Time != 0 {
			return false
		}
	}
	return true
}

func stamp(position int) time.Duration { return time.Duration(position) + 1 }
