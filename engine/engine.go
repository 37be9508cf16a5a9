package engine

import (
	"context"
	"time"
)

// Engine is a replicated key-value store with revisions, watches and leases.
// All methods are safe for concurrent use and return when ctx ends; errors are
// *holdfast.Error.
type Engine interface {
	// Txn evaluates t.If and executes t.Then when all compares hold, t.Else
	// otherwise. A Txn whose error has the outcome Unknown may still be applied
	// later, but at most once.
	Txn(ctx context.Context, t Txn) (TxnResult, error)

	// Range reads keys. It changes nothing, so its errors are NotApplied.
	Range(ctx context.Context, r RangeRequest) (RangeResult, error)

	// Watch delivers what happens to a range of keys. The channel is closed
	// after a batch with Err set, or when ctx ends. The call itself does not
	// wait for the quorum.
	Watch(ctx context.Context, w WatchRequest) <-chan WatchBatch

	// Grant makes a lease of the given id, which must not be 0; ids are chosen
	// by the caller, at random, so that a repeated Grant cannot leak a lease:
	// a lease that exists already is ErrConflict. The TTL is rounded up to
	// what the engine supports and returned.
	Grant(ctx context.Context, id LeaseID, ttl time.Duration) (time.Duration, error)

	// Renew starts the lease's TTL anew and returns it; ErrNotFound when the
	// lease has expired or never was.
	Renew(ctx context.Context, id LeaseID) (time.Duration, error)

	// Revoke ends a lease and deletes its keys; ErrNotFound when it is gone.
	Revoke(ctx context.Context, id LeaseID) error

	// Compact forgets history before revision rev, which must be past; the
	// present values stay.
	Compact(ctx context.Context, rev int64) error

	// Status says how this engine sees its store now; it does not need a quorum.
	Status(ctx context.Context) (Status, error)

	// Close ends watches and releases what the engine opened.
	Close() error
}

// LeaseID names a lease; 0 is no lease.
type LeaseID int64

// KV is a key with its value at some revision.
type KV struct {
	Key            string
	Value          []byte // not to be modified
	CreateRevision int64  // of the put that created it
	ModRevision    int64  // of the last put
	Version        int64  // number of puts since its creation, 1 after the first
	Lease          LeaseID
}

// Txn is a guarded transaction; see [Engine].
type Txn struct {
	If   []Compare // all must hold; none means yes
	Then []Op
	Else []Op
}

// TxnResult says which branch ran and what its operations gave.
type TxnResult struct {
	Revision  int64 // of the store after the transaction; that of its writes if it wrote
	Succeeded bool  // Then ran
	Results   []OpResult
}

// CompareTarget is what of a key is compared.
type CompareTarget uint8

// What can be compared.
const (
	CompareVersion CompareTarget = iota + 1
	CompareCreate
	CompareMod
	CompareValue
)

// CompareOp is how it is compared. Values compare as bytes.
type CompareOp uint8

// How it can be compared.
const (
	Equal CompareOp = iota + 1
	NotEqual
	Greater
	Less
)

// Compare holds a key's property against a constant. A missing key has version
// and revisions 0; its value compares false to everything. With End set it
// must hold for every key in [Key, End); a range without keys compares as a
// missing key does.
type Compare struct {
	Key    string
	End    string
	Target CompareTarget
	Op     CompareOp
	Int    int64  // for version and revisions
	Value  []byte // for values
}

// Missing holds when the key does not exist.
func Missing(key string) Compare {
	return Compare{Key: key, Target: CompareCreate, Op: Equal}
}

// Exists holds when the key exists.
func Exists(key string) Compare {
	return Compare{Key: key, Target: CompareCreate, Op: Greater}
}

// ModIs holds when the key was last written at rev; rev 0: when it is missing.
func ModIs(key string, rev int64) Compare {
	return Compare{Key: key, Target: CompareMod, Op: Equal, Int: rev}
}

// ValueIs holds when the key exists with that value.
func ValueIs(key string, value []byte) Compare {
	return Compare{Key: key, Target: CompareValue, Op: Equal, Value: value}
}

// OpKind is what an Op does.
type OpKind uint8

// What an Op can do.
const (
	OpGet OpKind = iota + 1
	OpPut
	OpDelete
	OpTxn
)

// Op is one operation of a Txn; make it with Get, Put, Delete and the like.
type Op struct {
	Kind  OpKind
	Range RangeRequest // OpGet, and Key and End for OpDelete
	Key   string       // OpPut
	Value []byte       // OpPut
	Lease LeaseID      // OpPut: the key goes when the lease goes
	Prev  bool         // OpDelete: return what was deleted
	Txn   *Txn         // OpTxn: a nested transaction
}

// OpResult is what one Op gave: the field of its kind is set.
type OpResult struct {
	Range   RangeResult // OpGet
	Deleted int64       // OpDelete: how many keys
	Prev    []KV        // OpDelete with Prev
	Txn     *TxnResult  // OpTxn; its Revision is 0, the outermost counts
}

// Get reads one key.
func Get(key string) Op { return Op{Kind: OpGet, Range: RangeRequest{Key: key}} }

// GetRange reads as r says; r.Stale is ignored inside a transaction.
func GetRange(r RangeRequest) Op { return Op{Kind: OpGet, Range: r} }

// Put writes a key without a lease.
func Put(key string, value []byte) Op { return Op{Kind: OpPut, Key: key, Value: value} }

// PutLeased writes a key that goes when the lease goes. The whole Txn fails
// with ErrNotFound when the lease does not exist, so guard it.
func PutLeased(key string, value []byte, lease LeaseID) Op {
	return Op{Kind: OpPut, Key: key, Value: value, Lease: lease}
}

// Delete removes one key, which need not exist.
func Delete(key string) Op { return Op{Kind: OpDelete, Range: RangeRequest{Key: key}} }

// DeleteRange removes the keys in [key, end).
func DeleteRange(key, end string) Op {
	return Op{Kind: OpDelete, Range: RangeRequest{Key: key, End: end}}
}

// Nested runs a transaction inside another one.
func Nested(t Txn) Op { return Op{Kind: OpTxn, Txn: &t} }

// RangeRequest names the keys to read: one when End is empty, otherwise those
// in [Key, End) in ascending order.
type RangeRequest struct {
	Key      string
	End      string
	Revision int64 // of the state to read; 0 is the present
	Limit    int64 // 0 is no limit
	KeysOnly bool
	Count    bool // only count
	Stale    bool // answer from this node's state, however old, without a quorum
}

// RangeResult is what a range holds.
type RangeResult struct {
	Revision int64 // of the store when it was read
	KVs      []KV
	More     bool  // Limit cut the answer
	Count    int64 // keys in the range, whatever Limit says
}

// PrefixEnd is the end of the range of all keys that begin with prefix. The
// empty prefix means every key: its end is "\xff", which no valid UTF-8 key
// reaches.
func PrefixEnd(prefix string) string {
	b := []byte(prefix)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] < 0xff {
			b[i]++
			return string(b[:i+1])
		}
	}
	return "\xff"
}

// WatchRequest names the keys to watch: one when End is empty, otherwise those
// in [Key, End).
type WatchRequest struct {
	Key      string
	End      string
	Revision int64 // the first to be delivered; 0 is the next one from now
	Prev     bool  // deliver what each event replaced
	Progress bool  // deliver empty batches from time to time (within some seconds)
}

// WatchBatch is the events of one or more whole revisions, in order.
type WatchBatch struct {
	Revision int64 // everything up to it has been delivered
	Events   []Event
	Err      error // the last batch only; *holdfast.Error
}

// Event is one change of one key.
type Event struct {
	Deleted bool
	KV      KV  // after the change; of a deletion only Key and ModRevision
	Prev    *KV // before it, with WatchRequest.Prev, if it is still in history
}

// Status is how an engine sees its store.
type Status struct {
	Kind      string // "memory", "embed", "etcd"
	ClusterID uint64
	MemberID  uint64 // of the member that answered
	Leader    uint64 // member id of the leader as that member sees it; 0: none
	Term      uint64 // of the consensus
	Revision  int64
	DBSize    int64 // bytes on disk
	DBInUse   int64 // bytes of it in use
	Quota     int64 // bytes; 0: not known
	Learner   bool
	Version   string // of the store's software
	Alarms    []string
}
