package kv

// ReadSpec is what the options of a read say together, for packages that send
// reads elsewhere: the Go client.
type ReadSpec struct {
	Stale    bool
	At       int64  // 0: the present
	Limit    int    // of a List
	After    string // of a List
	KeysOnly bool   // of a List
}

// SpecOfGet joins the options of a Get.
func SpecOfGet(opts ...ReadOption) ReadSpec { return readOptionsOf(opts).spec() }

// SpecOfList joins the options of a List.
func SpecOfList(opts ...ListOption) ReadSpec { return listOptionsOf(opts).spec() }

func (o readOptions) spec() ReadSpec {
	return ReadSpec{Stale: o.stale, At: o.at, Limit: o.limit, After: o.after, KeysOnly: o.keysOnly}
}

// WriteSpec is what the options of a write say together.
type WriteSpec struct {
	Guards []Cond // on the key that is written; their Key is empty
	Leased bool
	Fences []Fence
}

// SpecOfWrite joins the options of a write.
func SpecOfWrite(opts ...WriteOption) WriteSpec {
	o := writeOptionsOf(opts)
	return WriteSpec{Guards: o.guards, Leased: o.leased, Fences: o.fences}
}
