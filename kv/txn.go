package kv

// Txn changes several keys in one step: when all of If hold, Then happens,
// otherwise Else. Conditions see the state before the transaction. Operations
// of a branch happen in order; a key may be written once in each branch.
type Txn struct {
	If   []Cond
	Then []Op
	Else []Op
}

// CondKind is what a [Cond] asks of its key.
type CondKind uint8

// What a Cond can ask.
const (
	CondRevision CondKind = iota + 1 // last written at Cond.Revision; 0: missing
	CondExists                       // exists
	CondValue                        // exists with Cond.Value
)

// Cond is a condition on one key; make it with [RevisionIs], [Missing],
// [Exists] or [ValueIs].
type Cond struct {
	Key      string
	Kind     CondKind
	Revision int64
	Value    []byte
}

// RevisionIs holds when the key was last written at rev; 0: when it is missing.
func RevisionIs(key string, rev int64) Cond {
	return Cond{Key: key, Kind: CondRevision, Revision: rev}
}

// Missing holds when the key does not exist.
func Missing(key string) Cond { return RevisionIs(key, 0) }

// Exists holds when the key exists.
func Exists(key string) Cond { return Cond{Key: key, Kind: CondExists} }

// ValueIs holds when the key exists with that value.
func ValueIs(key string, value []byte) Cond { return Cond{Key: key, Kind: CondValue, Value: value} }

// OpKind is what an [Op] does.
type OpKind uint8

// What an Op can do.
const (
	OpGet OpKind = iota + 1
	OpPut
	OpDelete
)

// Op is one operation of a [Txn]; make it with [Get], [Put] or [Delete].
type Op struct {
	Kind   OpKind
	Key    string
	Value  []byte // OpPut
	Leased bool   // OpPut: the key goes with the session
}

// Get reads a key.
func Get(key string) Op { return Op{Kind: OpGet, Key: key} }

// Put writes a key.
func Put(key string, value []byte) Op { return Op{Kind: OpPut, Key: key, Value: value} }

// PutLeased writes a key that goes with the session.
func PutLeased(key string, value []byte) Op {
	return Op{Kind: OpPut, Key: key, Value: value, Leased: true}
}

// Delete removes a key, which need not exist.
func Delete(key string) Op { return Op{Kind: OpDelete, Key: key} }

// TxnResult says which branch ran and what its operations gave, in their order.
type TxnResult struct {
	Revision  int64 // of the store after the transaction: that of its writes, if any
	Succeeded bool  // Then ran
	Results   []OpResult
}

// OpResult is what one [Op] gave.
type OpResult struct {
	Found bool  // OpGet: the key exists; OpDelete: it did
	Entry Entry // OpGet, when found
}
