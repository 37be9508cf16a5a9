//go:build linux

package faultfs

import "time"

// Rule is a fault that operations meet. It stays until it is removed.
type Rule struct {
	ID   string   // names it for removal and in the counters
	Ops  []string // read, write, fsync, fdatasync, create, rename, unlink, truncate, open, mkdir, fsyncdir …; empty: all of them
	Path string   // glob on the path below the mount point, "**" crosses directories; empty: everything

	Action      Action
	Probability float64       // of each matching operation; 0 is always
	Nth         int           // only the n-th matching operation, from 1; 0: all of them
	Delay       time.Duration // for Slow: mean of the added latency; for Stall 0 is until the rule is removed
	Quota       int64         // for Full: bytes that may still be written before ENOSPC
}

// Action is what happens to a matching operation.
type Action string

// The actions.
const (
	EIO       Action = "eio"       // the operation fails; nothing changes
	FsyncEIO  Action = "fsync-eio" // fsync fails once, and its pages count as clean from then on though they never reach the disk
	ENOSPC    Action = "enospc"    // writes that need space fail
	EROFS     Action = "erofs"     // everything that writes fails
	Stall     Action = "stall"     // the operation hangs
	Slow      Action = "slow"      // it takes longer
	FlipRead  Action = "flip-read" // one bit of what is read is wrong
	Torn      Action = "torn"      // of the write only some 512-byte sectors will reach the disk
	Stale     Action = "stale"     // the write is acknowledged and lost: the block keeps its old content
	Misdirect Action = "misdirect" // the write lands in another block of the file
)

// Profile says what of the unsynced survives a power failure.
type Profile string

// The persistence profiles.
const (
	Posix       Profile = "posix"        // only what was synced; an entry needs fsync of its directory
	Ext4Ordered Profile = "ext4-ordered" // the journal of metadata survives as a prefix, fsync of a file commits all earlier metadata, a rename over a file flushes its data first
	LazyFS      Profile = "lazyfs"       // metadata is durable at once, data is not
)

// Crash says what a power failure leaves.
type Crash struct {
	Profile Profile       `json:"profile,omitempty"` // default Posix
	Policy  Policy        `json:"policy,omitempty"`  // default LoseAll
	Age     time.Duration `json:"age,omitempty"`     // for Aged: what is older was written back by the kernel; default 30s
	Seed    uint64        `json:"seed,omitempty"`    // for Subset and TornTail
}

// Policy chooses among what the profile allows.
type Policy string

// The policies.
const (
	LoseAll  Policy = "lose-all"  // the least that the profile promises
	Aged     Policy = "aged"      // what is older than Age survives
	Subset   Policy = "subset"    // a random subset that respects dependencies
	Prefix   Policy = "prefix"    // a random prefix of the pending operations
	TornTail Policy = "torn-tail" // a prefix, and of the last write only some sectors
)

// Losses is what a power failure took.
type Losses struct {
	Bytes   int64    `json:"bytes"`   // of file content
	Files   int      `json:"files"`   // files whose content went back
	Entries int      `json:"entries"` // directory entries: files that came back or went
	Ops     int      `json:"ops"`     // operations that were undone
	Paths   []string `json:"paths"`   // the first hundred files concerned
}
