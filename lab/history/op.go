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
// names in JSON are Jepsen's, with three of our own (key, node, latency is not
// among them: it follows from the times).
type Op struct {
	Index   int           `json:"index"`
	Time    time.Duration `json:"time"`            // since the start of the run, monotonic, in nanoseconds
	Process int           `json:"process"`         // one call at a time; Nemesis in JSON is "nemesis"
	Type    Type          `json:"type"`            //
	F       string        `json:"f"`               // read, write, cas, add, …
	Key     string        `json:"key,omitempty"`   // which of several independent objects
	Value   any           `json:"value"`           // nil, bool, int64, float64, string, []any or map[string]any
	Error   string        `json:"error,omitempty"` // why it failed or is unknown
	Node    string        `json:"node,omitempty"`  // the host the client talked to
}

// History is the operations in the order in which they were recorded: by
// index, and times do not decrease.
type History []Op

// Call is an invocation and how it ended.
type Call struct {
	Invoke   Op
	Complete Op // its Type is Info where nobody knows, also where the history ends first
}
