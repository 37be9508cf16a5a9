package grant

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// Mode is how a grant shares the record with others.
type Mode string

// The modes.
const (
	Exclusive Mode = "exclusive" // alone
	Shared    Mode = "shared"    // with other shared ones
	Permits   Mode = "permits"   // as long as the permits last
)

// Claim is one wish to hold a record, waiting or granted.
type Claim struct {
	Session engine.SessionID // whose session must live
	Agent   engine.SessionID // the process that asked on its behalf
	Request string           // names the claim within its session, for ever
	Mode    Mode
	Permits int           // how many, with mode Permits
	Since   time.Time     // of the wish or the grant, on the asker's wall clock: for people
	Delay   time.Duration // how long nobody gets it after the session was lost
	Note    string        // for people
	Value   []byte        // what a leader proclaims
	Granted int64         // revision of the grant; 0 while waiting
	Ready   bool          // the holder has confirmed that it acts
}

// is says whether the claim is that request of that session.
func (c *Claim) is(o Owner) bool { return c.Session == o.Session && c.Request == o.Request }

// Owner names a claim.
type Owner struct {
	Session engine.SessionID
	Request string
}

// Record is who holds one name and who waits for it, as the quorum knows it.
type Record struct {
	Capacity int // permits there are, while anybody has or wants some; else 0
	Holders  []Claim
	Queue    []Claim       // first come first
	Run      int           // how often in a row an agent served its own before the queue
	Delayed  bool          // a lock-delay may be running: grant only if its key is missing
	Delay    time.Duration // the longest that may be running
	Vanished *Claim        // the last holder that was ready and vanished, until the next is
}

// empty says whether nothing would be lost with the record.
func (r *Record) empty() bool {
	return len(r.Holders) == 0 && len(r.Queue) == 0 && !r.Delayed && r.Vanished == nil
}

func (r *Record) clone() Record {
	c := *r
	c.Holders, c.Queue = slices.Clone(r.Holders), slices.Clone(r.Queue)
	return c
}

// holder is the granted claim of o, or nil.
func (r *Record) holder(o Owner) *Claim { return find(r.Holders, o) }

func find(cs []Claim, o Owner) *Claim {
	for i := range cs {
		if cs[i].is(o) {
			return &cs[i]
		}
	}
	return nil
}

// The stored form: JSON, so that etcdctl shows it to people, with short names,
// because it is written at every grant. Since is in Unix milliseconds, Delay in
// nanoseconds. A holder without "rev" was granted by the write of the record
// itself: its revision is the record's.
type storedClaim struct {
	Session string `json:"session"`
	Agent   string `json:"agent,omitempty"` // when it is not the session
	Request string `json:"req"`
	Mode    Mode   `json:"mode,omitempty"` // when not exclusive
	Permits int    `json:"permits,omitempty"`
	Since   int64  `json:"since"`
	Delay   int64  `json:"delay,omitempty"`
	Note    string `json:"note,omitempty"`
	Value   []byte `json:"value,omitempty"`
	Granted int64  `json:"rev,omitempty"`
	Waits   bool   `json:"waits,omitempty"` // a holder that is not ready
}

type storedRecord struct {
	Capacity int           `json:"capacity,omitempty"`
	Holders  []storedClaim `json:"holders,omitempty"`
	Queue    []storedClaim `json:"queue,omitempty"`
	Run      int           `json:"run,omitempty"`
	Delayed  bool          `json:"delayed,omitempty"`
	Delay    int64         `json:"delay,omitempty"`
	Vanished *storedClaim  `json:"vanished,omitempty"`
}

// The stored form is written by hand, because it is most of what a grant costs
// here; TestRecord_EncodeAsJSON holds it to what encoding/json would write.

func (c *Claim) append(b []byte, waits bool) ([]byte, error) {
	var err error
	b = append(b, `{"session":"`...)
	b = append(b, c.Session.String()...)
	if c.Agent != c.Session {
		b = append(b, `","agent":"`...)
		b = append(b, c.Agent.String()...)
	}
	b = append(b, `","req":`...)
	if b, err = appendString(b, c.Request); err != nil {
		return nil, err
	}
	if c.Mode != Exclusive {
		b = append(b, `,"mode":`...)
		if b, err = appendString(b, string(c.Mode)); err != nil {
			return nil, err
		}
	}
	b = appendInt(b, `,"permits":`, int64(c.Permits))
	b = append(b, `,"since":`...)
	b = strconv.AppendInt(b, c.Since.UnixMilli(), 10)
	b = appendInt(b, `,"delay":`, int64(c.Delay))
	if c.Note != "" {
		b = append(b, `,"note":`...)
		if b, err = appendString(b, c.Note); err != nil {
			return nil, err
		}
	}
	if len(c.Value) > 0 {
		b = append(b, `,"value":"`...)
		b = base64.StdEncoding.AppendEncode(b, c.Value)
		b = append(b, '"')
	}
	b = appendInt(b, `,"rev":`, c.Granted)
	if waits {
		b = append(b, `,"waits":true`...)
	}
	return append(b, '}'), nil
}

// appendInt appends a number that is not 0, after its name.
func appendInt(b []byte, name string, n int64) []byte {
	if n == 0 {
		return b
	}
	return strconv.AppendInt(append(b, name...), n, 10)
}

// appendString appends a JSON string.
func appendString(b []byte, s string) ([]byte, error) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || strings.IndexByte(`"\<>&`, c) >= 0 {
			quoted, err := json.Marshal(s)
			return append(b, quoted...), err
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"'), nil
}

func appendClaims(b []byte, name string, claims []Claim, waits func(*Claim) bool) ([]byte, error) {
	if len(claims) == 0 {
		return b, nil
	}
	b = append(b, name...)
	for i := range claims {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = claims[i].append(b, waits(&claims[i])); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

func (s *storedClaim) claim(rev int64) (Claim, error) {
	c := Claim{
		Request: s.Request, Mode: s.Mode, Permits: s.Permits, Since: time.UnixMilli(s.Since), Delay: time.Duration(s.Delay),
		Note: s.Note, Value: s.Value, Granted: s.Granted,
	}
	var err error
	if c.Session, err = engine.ParseSessionID(s.Session); err != nil {
		return c, err
	}
	c.Agent = c.Session
	if s.Agent != "" {
		if c.Agent, err = engine.ParseSessionID(s.Agent); err != nil {
			return c, err
		}
	}
	if c.Mode == "" {
		c.Mode = Exclusive
	}
	if c.Granted == 0 {
		c.Granted = rev
	}
	return c, nil
}

func (r *Record) encode() ([]byte, error) {
	b := make([]byte, 0, 128*(len(r.Holders)+len(r.Queue)+1))
	b = appendInt(b, `,"capacity":`, int64(r.Capacity))
	b, err := appendClaims(b, `,"holders":[`, r.Holders, func(c *Claim) bool { return !c.Ready })
	if err == nil {
		b, err = appendClaims(b, `,"queue":[`, r.Queue, func(*Claim) bool { return false })
	}
	if err != nil {
		return nil, err
	}
	b = appendInt(b, `,"run":`, int64(r.Run))
	if r.Delayed {
		b = append(b, `,"delayed":true`...)
	}
	b = appendInt(b, `,"delay":`, int64(r.Delay))
	if r.Vanished != nil {
		if b, err = r.Vanished.append(append(b, `,"vanished":`...), false); err != nil {
			return nil, err
		}
	}
	if len(b) == 0 {
		return []byte("{}"), nil
	}
	b[0] = '{'
	return append(b, '}'), nil
}

// decode reads the record that was written at revision rev.
func decode(key string, value []byte, rev int64) (Record, error) {
	var s storedRecord
	if err := json.Unmarshal(value, &s); err != nil {
		return Record{}, corrupt(key, err)
	}
	r := Record{Capacity: s.Capacity, Run: s.Run, Delayed: s.Delayed, Delay: time.Duration(s.Delay)}
	for i := range s.Holders {
		c, err := s.Holders[i].claim(rev)
		if err != nil {
			return r, corrupt(key, err)
		}
		c.Ready = !s.Holders[i].Waits
		r.Holders = append(r.Holders, c)
	}
	for i := range s.Queue {
		c, err := s.Queue[i].claim(0)
		if err != nil {
			return r, corrupt(key, err)
		}
		r.Queue = append(r.Queue, c)
	}
	if s.Vanished != nil {
		v, err := s.Vanished.claim(rev)
		if err != nil {
			return r, corrupt(key, err)
		}
		r.Vanished = &v
	}
	return r, nil
}

func corrupt(key string, err error) error {
	return &holdfast.Error{Key: key, Op: "decode", Code: holdfast.CodeInternal, Outcome: holdfast.NotApplied, Err: err}
}
