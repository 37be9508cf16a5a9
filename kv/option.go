package kv

import (
	"holdfast.dev"
)

// ReadOption changes a [Store.Get]; those that make sense for it, change a
// [Store.List] as well.
type ReadOption interface {
	applyToRead(*readOptions)
}

// ListOption changes a [Store.List].
type ListOption interface {
	applyToList(*readOptions)
}

// ReadListOption is both.
type ReadListOption interface {
	ReadOption
	ListOption
}

// WriteOption changes a [Store.Put], [Store.Delete], [Store.CompareAndSet] or
// [Store.Txn]. Each says where it may stand; elsewhere it is ErrInvalid.
type WriteOption interface {
	applyToWrite(*writeOptions)
}

// readOptions are the options of a read together.
type readOptions struct {
	stale    bool
	at       int64
	limit    int
	after    string
	keysOnly bool
}

// writeOptions are the options of a write together.
type writeOptions struct {
	guards []Cond // on the key itself; the key is filled in later
	leased bool
	fences []Fence
}

type readOption func(*readOptions)

func (f readOption) applyToRead(o *readOptions) { f(o) }
func (f readOption) applyToList(o *readOptions) { f(o) }

type listOption func(*readOptions)

func (f listOption) applyToList(o *readOptions) { f(o) }

type writeOption func(*writeOptions)

func (f writeOption) applyToWrite(o *writeOptions) { f(o) }

// Stale reads what the nearest node has, without asking the majority: fast,
// also in a minority, but possibly old. ReadRevision and Page.Revision say how
// old: it is the whole state of that revision.
func Stale() ReadListOption { return readOption(func(o *readOptions) { o.stale = true }) }

// At reads the state as it was after revision rev, which must not be in the
// future. holdfast.ErrCompacted says that history does not reach back so far.
// 0 is the present.
func At(rev int64) ReadListOption { return readOption(func(o *readOptions) { o.at = rev }) }

// Limit bounds the entries of a page: 1 to [MaxPage], default [DefaultPage].
func Limit(n int) ListOption { return listOption(func(o *readOptions) { o.limit = n }) }

// After begins the page behind a key, usually the last of the page before. The
// key need not exist, but must begin with the prefix.
func After(key string) ListOption { return listOption(func(o *readOptions) { o.after = key }) }

// KeysOnly leaves the values out.
func KeysOnly() ListOption { return listOption(func(o *readOptions) { o.keysOnly = true }) }

// IfRevision lets a Put or Delete happen only if the key was last written at
// rev; otherwise it is holdfast.ErrConflict. 0 means that it must not exist.
func IfRevision(rev int64) WriteOption {
	return writeOption(func(o *writeOptions) { o.guards = append(o.guards, RevisionIs("", rev)) })
}

// IfMissing lets a Put happen only if the key does not exist; otherwise it is
// holdfast.ErrConflict.
func IfMissing() WriteOption { return IfRevision(0) }

// Leased ties the key written by a Put or CompareAndSet to the session: when
// the session ends, the key is deleted. A later write without Leased unties it.
// In a [Txn] set [Op.Leased] instead.
func Leased() WriteOption { return writeOption(func(o *writeOptions) { o.leased = true }) }

// Fenced makes any write conditional on a fencing token: if a higher token has
// ever been used for the resource, nothing is changed and the error is
// holdfast.ErrFenced. Otherwise the token is remembered, in the same
// transaction, and also when a compare of the write fails, because the
// resource has seen it then. Resource is usually the name of the lock or
// election that issued the token. At most [MaxFences] in one write.
func Fenced(resource string, token holdfast.Token) WriteOption {
	return writeOption(func(o *writeOptions) { o.fences = append(o.fences, Fence{resource, token}) })
}

// Fence names the highest token a resource may have seen for a write to
// happen.
type Fence struct {
	Resource string
	Token    holdfast.Token
}

// readOptionsOf joins the options of a Get.
func readOptionsOf(opts []ReadOption) (o readOptions) {
	for _, f := range opts {
		f.applyToRead(&o)
	}
	return o
}

// listOptionsOf joins the options of a List.
func listOptionsOf(opts []ListOption) readOptions {
	o := readOptions{limit: DefaultPage}
	for _, f := range opts {
		f.applyToList(&o)
	}
	return o
}

// writeOptionsOf joins the options of a write.
func writeOptionsOf(opts []WriteOption) (o writeOptions) {
	for _, f := range opts {
		f.applyToWrite(&o)
	}
	return o
}
