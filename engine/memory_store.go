package engine

import (
	"slices"
	"sort"
)

// A version is what a key became at a revision.
type version struct {
	kv      *KV // of a deletion only Key and ModRevision
	deleted bool
}

// A chronicle is the versions of one key, oldest first.
type chronicle struct {
	key      string
	versions []version
}

// at is the key's value in the state of revision rev, nil if it did not exist.
func (c *chronicle) at(rev int64) *KV {
	i := len(c.versions) - 1
	if i >= 0 && c.versions[i].kv.ModRevision > rev {
		i = sort.Search(len(c.versions), func(i int) bool { return c.versions[i].kv.ModRevision > rev }) - 1
	}
	if i < 0 || c.versions[i].deleted {
		return nil
	}
	return c.versions[i].kv
}

// forget drops what no read at rev or later can see, and tells whether nothing
// is left.
func (c *chronicle) forget(rev int64) (empty bool) {
	i := sort.Search(len(c.versions), func(i int) bool { return c.versions[i].kv.ModRevision > rev })
	if i > 0 && !c.versions[i-1].deleted {
		i-- // still the value at rev
	}
	c.versions = slices.Clone(c.versions[i:])
	return len(c.versions) == 0
}

// change is an entry of the log that watches read.
type change struct {
	version
	prev *KV // at the revision before, or nil
}

// store is the keys with their history. It is not safe for concurrent use,
// except that slices of the log, once taken, stay as they are.
type store struct {
	rev       int64 // the last
	compacted int64 // the oldest that can be read
	keys      map[string]*chronicle
	order     keyOrder
	log       [][]change // log[i] is revision logged+i
	logged    int64
	pending   []change // of the revision that is being made
}

func newStore() store {
	return store{rev: 1, keys: map[string]*chronicle{}, logged: 2}
}

// now is the revision that a read inside the transaction being made sees.
func (s *store) now() int64 {
	if len(s.pending) > 0 {
		return s.rev + 1
	}
	return s.rev
}

// get is the value of a key in the state of revision rev, or nil.
func (s *store) get(key string, rev int64) *KV {
	if c := s.keys[key]; c != nil {
		return c.at(rev)
	}
	return nil
}

// each calls f for the keys of a span that exist at rev, in order, until it
// says no.
func (s *store) each(sp span, rev int64, f func(*KV) bool) {
	if sp.end == "" {
		if kv := s.get(sp.key, rev); kv != nil {
			f(kv)
		}
		return
	}
	s.order.each(sp, func(c *chronicle) bool {
		kv := c.at(rev)
		return kv == nil || f(kv)
	})
}

// read answers r, whose revision has been checked.
func (s *store) read(r RangeRequest) RangeResult {
	rev := r.Revision
	if rev == 0 {
		rev = s.now()
	}
	res := RangeResult{Revision: s.now()}
	s.each(span{r.Key, r.End}, rev, func(kv *KV) bool {
		res.Count++
		switch {
		case r.Count:
		case r.Limit > 0 && int64(len(res.KVs)) >= r.Limit:
			res.More = true
		case r.KeysOnly:
			bare := *kv
			bare.Value = nil
			res.KVs = append(res.KVs, bare)
		default:
			res.KVs = append(res.KVs, *kv)
		}
		return true
	})
	return res
}

// put writes a key in the revision that is being made and returns what it
// replaced, or nil.
func (s *store) put(key string, value []byte, lease LeaseID) (prev *KV) {
	rev := s.rev + 1
	c := s.keys[key]
	if c == nil {
		c = &chronicle{key: key}
		s.keys[key] = c
		s.order.insert(c)
	}
	prev = c.at(rev)
	kv := &KV{Key: key, Value: slices.Clone(value), CreateRevision: rev, ModRevision: rev, Version: 1, Lease: lease}
	if prev != nil {
		kv.CreateRevision, kv.Version = prev.CreateRevision, prev.Version+1
	}
	s.write(c, version{kv, false})
	return prev
}

// delete removes the keys of a span in the revision that is being made and
// returns them.
func (s *store) delete(sp span) []*KV {
	var gone []*KV
	s.each(sp, s.now(), func(kv *KV) bool {
		gone = append(gone, kv)
		return true
	})
	for _, kv := range gone {
		s.write(s.keys[kv.Key], version{&KV{Key: kv.Key, ModRevision: s.rev + 1}, true})
	}
	return gone
}

func (s *store) write(c *chronicle, v version) {
	s.pending = append(s.pending, change{v, c.at(s.rev)})
	c.versions = append(c.versions, v)
}

// commit ends the revision that is being made and returns its changes, nil if
// there are none, which means that there is no new revision.
func (s *store) commit() []change {
	if len(s.pending) == 0 {
		return nil
	}
	made := s.pending
	s.rev++
	s.log = append(s.log, made)
	s.pending = nil
	return made
}

// compact forgets what only reads before rev can see. Changes made at rev
// itself stay in the log.
func (s *store) compact(rev int64) {
	s.compacted = rev
	s.order.filter(func(c *chronicle) bool {
		if !c.forget(rev) {
			return true
		}
		delete(s.keys, c.key)
		return false
	})
	if cut := rev - s.logged; cut > 0 {
		s.log = slices.Clone(s.log[cut:])
		s.logged = rev
	}
}

// keyOrder holds the chronicles by key: a list of short sorted lists, none of
// them empty.
type keyOrder struct{ chunks [][]*chronicle }

// chunkLen is where a chunk is split in two.
const chunkLen = 512

// chunk is the index of the chunk where key is or belongs.
func (o *keyOrder) chunk(key string) int {
	i := sort.Search(len(o.chunks), func(i int) bool { return o.chunks[i][0].key > key })
	return max(i-1, 0)
}

// seek is the position in a chunk of the first key that is not less.
func seek(chunk []*chronicle, key string) int {
	return sort.Search(len(chunk), func(i int) bool { return chunk[i].key >= key })
}

// insert adds a chronicle whose key is not there.
func (o *keyOrder) insert(c *chronicle) {
	if len(o.chunks) == 0 {
		o.chunks = [][]*chronicle{{c}}
		return
	}
	i := o.chunk(c.key)
	chunk := slices.Insert(o.chunks[i], seek(o.chunks[i], c.key), c)
	o.chunks[i] = chunk
	if len(chunk) < chunkLen {
		return
	}
	upper := slices.Clone(chunk[chunkLen/2:])
	clear(chunk[chunkLen/2:])
	o.chunks[i] = chunk[:chunkLen/2]
	o.chunks = slices.Insert(o.chunks, i+1, upper)
}

// each calls f for the chronicles of a span with an end, in order, until it
// says no.
func (o *keyOrder) each(sp span, f func(*chronicle) bool) {
	if len(o.chunks) == 0 {
		return
	}
	first := o.chunk(sp.key)
	for i, chunk := range o.chunks[first:] {
		from := 0
		if i == 0 {
			from = seek(chunk, sp.key)
		}
		for _, c := range chunk[from:] {
			if c.key >= sp.end || !f(c) {
				return
			}
		}
	}
}

// filter keeps the chronicles that keep says yes to.
func (o *keyOrder) filter(keep func(*chronicle) bool) {
	kept := o.chunks[:0]
	for _, chunk := range o.chunks {
		chunk = slices.DeleteFunc(chunk, func(c *chronicle) bool { return !keep(c) })
		if len(chunk) > 0 {
			kept = append(kept, chunk)
		}
	}
	clear(o.chunks[len(kept):])
	o.chunks = kept
}
