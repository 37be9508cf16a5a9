package faultfs

import (
	"encoding/json"
	"time"
)

// The control protocol: one JSON object a line over the socket that the daemon
// inherits as file descriptor 3. Every request is answered once, in any order.
// The first line that the daemon writes answers the request 0, which nobody
// sent: that it is mounted, or why not. When the socket closes the daemon takes
// its mount down and ends.

// request asks the daemon for something.
type request struct {
	ID   uint64 `json:"id"`
	Call call   `json:"call"`

	Rule  *Rule  `json:"rule,omitempty"`  // inject
	Name  string `json:"name,omitempty"`  // remove, touched: ID of the rule; flip: glob
	N     int    `json:"n,omitempty"`     // flip
	Seed  uint64 `json:"seed,omitempty"`  // flip
	Crash *Crash `json:"crash,omitempty"` // crash
	Dump  *Dump  `json:"dump,omitempty"`  // dump
}

// call is what a request asks for.
type call string

const (
	callInject   call = "inject"
	callRemove   call = "remove"
	callTouched  call = "touched"
	callFlip     call = "flip"
	callCrash    call = "crash"
	callSync     call = "sync"
	callCounters call = "counters"
	callDump     call = "dump"
)

// reply answers the request with the same ID.
type reply struct {
	ID     uint64          `json:"id"`
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// daemonConfig is the argument of the stage.
type daemonConfig struct {
	Mount        string        `json:"mount"`
	Quota        int64         `json:"quota"`
	FsyncLatency time.Duration `json:"fsync_latency"`
	Seed         uint64        `json:"seed"`
	Patience     time.Duration `json:"patience"`
	UID          uint32        `json:"uid"` // owner of the root directory
	GID          uint32        `json:"gid"`
	Mode         uint32        `json:"mode"`
}
