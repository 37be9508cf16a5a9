package report

import (
	"time"

	"holdfast.dev/lab/check"
)

// Data is everything about a run but its history: the file run.json in the
// directory of the run. It is a contract, like the history beside it.
// Durations are nanoseconds since the run began, on a monotonic clock.
type Data struct {
	Version  int           `json:"version"` // 1
	ID       string        `json:"id"`      // scenario and start, also the path below the store
	Scenario string        `json:"scenario"`
	About    string        `json:"about"`
	Command  string        `json:"command"` // what repeats the run
	Seed     uint64        `json:"seed"`
	Started  time.Time     `json:"started"` // by the wall clock, to be read by people only
	Duration time.Duration `json:"duration"`
	State    string        `json:"state"` // running, interrupted, done

	Verdict check.Verdict  `json:"verdict"`
	Reason  string         `json:"reason"` // one sentence
	Expect  check.Verdict  `json:"expect,omitempty"`
	Results []check.Result `json:"results"`
	// Doubts are what makes a run prove nothing: faults that touched nothing,
	// frames that the lab was late for, too few operations.
	Doubts   []string  `json:"doubts"`
	Findings []Finding `json:"findings"`

	Phases []Phase `json:"phases"`
	Hosts  []Host  `json:"hosts"`
	Faults []Fault `json:"faults"`
	Links  []Link  `json:"links"`
	Clocks []Clock `json:"clocks"`
	Disks  []Disk  `json:"disks"`
	Ops    Ops     `json:"ops"`

	System      string            `json:"system"`      // the driver
	Workload    string            `json:"workload"`    //
	Environment map[string]string `json:"environment"` // kernel, cores, versions of the servers, load of the machine
	Logs        []Log             `json:"logs"`
}

// Finding is something that nobody asked for, such as a server that died.
type Finding struct {
	At   time.Duration `json:"at"`
	Host string        `json:"host"`
	Text string        `json:"text"`
}

// Phase of a run: setup, warm-up, faults, heal, liveness, settle, final reads.
type Phase struct {
	Name string        `json:"name"`
	From time.Duration `json:"from"`
	To   time.Duration `json:"to"`
	Note string        `json:"note,omitempty"`
}

// Host is a machine of the lab.
type Host struct {
	Name      string   `json:"name"`
	Addr      string   `json:"addr"`
	Role      string   `json:"role"` // node, client or lab
	Processes []string `json:"processes"`
	Starts    int      `json:"starts"`
}

// Fault is one that was injected.
type Fault struct {
	ID        int           `json:"id"`
	Kind      string        `json:"kind"`     // net, proc, clock, disk, dns, host, act
	Text      string        `json:"text"`     // as planned
	Resolved  string        `json:"resolved"` // as injected
	Hosts     []string      `json:"hosts"`
	Phase     string        `json:"phase"`
	From      time.Duration `json:"from"`
	To        time.Duration `json:"to"`
	Touched   int64         `json:"touched"`
	Effect    string        `json:"effect"` // in words
	Error     string        `json:"error,omitempty"`
	Recovered bool          `json:"recovered"`
}

// Link is the counters of a directed link.
type Link struct {
	From       string        `json:"from"`
	To         string        `json:"to"`
	Rx         int64         `json:"rx"`
	Tx         int64         `json:"tx"`
	TxBytes    int64         `json:"tx_bytes"`
	Cut        int64         `json:"cut"`
	Lost       int64         `json:"lost"`
	Queue      int64         `json:"queue"` // dropped because the queue was full
	TooLong    int64         `json:"too_long"`
	Duplicated int64         `json:"duplicated"`
	Corrupted  int64         `json:"corrupted"`
	Reordered  int64         `json:"reordered"`
	Delayed    int64         `json:"delayed"`
	LateP50    time.Duration `json:"late_p50"` // achieved minus requested delay
	LateP99    time.Duration `json:"late_p99"`
	Overrun    int64         `json:"overrun"` // frames that the lab itself was late for or lost
}

// Clock is the offset of a host's wall clock over time, as its probe saw it.
type Clock struct {
	Host   string          `json:"host"`
	At     []time.Duration `json:"at"`
	Offset []time.Duration `json:"offset"`
}

// Disk is a host's fault filesystem.
type Disk struct {
	Host    string  `json:"host"`
	Writes  int64   `json:"writes"`
	Fsyncs  int64   `json:"fsyncs"`
	Bytes   int64   `json:"bytes"`
	Crashes []Crash `json:"crashes"`
}

// Crash is a power failure and what it took.
type Crash struct {
	At      time.Duration `json:"at"`
	Bytes   int64         `json:"bytes"`
	Files   int           `json:"files"`
	Entries int           `json:"entries"`
	Paths   []string      `json:"paths"`
}

// Ops is how many operations ended how.
type Ops struct {
	OK      int64 `json:"ok"`
	Fail    int64 `json:"fail"`
	Unknown int64 `json:"unknown"`
}

// Log is the end of a server's log.
type Log struct {
	Host string `json:"host"`
	Name string `json:"name"`
	Path string `json:"path"` // below the directory of the run
	Tail string `json:"tail"`
}

// All is how many there were.
func (o Ops) All() int64 { return o.OK + o.Fail + o.Unknown }
