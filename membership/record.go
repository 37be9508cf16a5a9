package membership

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// The bounds of a member.
const (
	MaxName     = 255      // bytes of a group's name and of an id
	MaxAddress  = 1 << 10  // bytes of an address
	MaxMetadata = 16 << 10 // bytes of all metadata together
)

// Member is one entry of a roster.
type Member struct {
	// ID is the member's name within its group. Register draws a random one
	// when it is empty. No "/".
	ID string
	// Address is where to reach it, in whatever form its users understand;
	// required.
	Address string
	// Metadata is for its users: version, zone, weight. Not to be modified.
	Metadata map[string]string
	// Session is the session the record hangs on. Read only.
	Session engine.SessionID
	// Revision is that of the last change. Read only.
	Revision int64

	created      int64 // the revision that created the key: another one is another record
	registration string
}

// Where records lie in the engine.
const prefix = "member/"

func groupPrefix(group string) string { return prefix + group + "/" }

func recordKey(group, id string) string { return groupPrefix(group) + id }

// State words of a record.
const (
	present = "present"
	left    = "left"
)

// record is what the quorum keeps of a member. The first three fields stand
// first also in the JSON, always: guards compare the value's beginning.
type record struct {
	State        string            `json:"state"`
	Session      string            `json:"session"`
	Registration string            `json:"registration"` // tells two of one session apart; random, empty for others' sessions
	Address      string            `json:"address"`
	Metadata     map[string]string `json:"metadata,omitempty"`
}

// encode is the record's value.
func (r record) encode() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic("membership: strings that do not encode: " + err.Error())
	}
	return b
}

// leftRecord is the guard "the record there is of a member that has left".
func leftRecord(key string) []engine.Compare {
	return beginsWith(key, `{"state":"left",`)
}

// ownRecord is the guard "a present member of that session".
func ownRecord(key string, session engine.SessionID) []engine.Compare {
	return beginsWith(key, fmt.Sprintf(`{"state":"present","session":"%v",`, session))
}

// thisRecord is the guard "a present member of that registration".
func thisRecord(key string, session engine.SessionID, registration string) []engine.Compare {
	return beginsWith(key, fmt.Sprintf(`{"state":"present","session":"%v","registration":"%s",`, session, registration))
}

// beginsWith is the guard "the key's value begins with"; 0xff is in no JSON.
func beginsWith(key, s string) []engine.Compare {
	return []engine.Compare{
		{Key: key, Target: engine.CompareValue, Op: engine.Greater, Value: []byte(s)},
		{Key: key, Target: engine.CompareValue, Op: engine.Less, Value: []byte(s + "\xff")},
	}
}

// decode reads a record; gone says that its member has left.
func decode(group string, kv engine.KV) (m Member, gone bool, err error) {
	var r record
	if err := json.Unmarshal(kv.Value, &r); err != nil {
		return m, false, &holdfast.Error{Op: "decode", Key: kv.Key, Code: holdfast.CodeInternal, Outcome: holdfast.NotApplied, Err: err}
	}
	return Member{
		ID:           strings.TrimPrefix(kv.Key, groupPrefix(group)),
		Address:      r.Address,
		Metadata:     r.Metadata,
		Session:      engine.SessionID(kv.Lease),
		Revision:     kv.ModRevision,
		created:      kv.CreateRevision,
		registration: r.Registration,
	}, r.State == left, nil
}

// check is everything that is wrong with a member of a group.
func (m Member) check(group string) error {
	faults := append(checkName("group", group), checkName("id", m.ID)...)
	switch {
	case m.Address == "":
		faults = append(faults, errors.New("address is empty"))
	case len(m.Address) > MaxAddress:
		faults = append(faults, fmt.Errorf("address has %d bytes, at most %d are allowed", len(m.Address), MaxAddress))
	case !utf8.ValidString(m.Address):
		faults = append(faults, errors.New("address is not valid UTF-8"))
	}
	size := 0
	for k, v := range m.Metadata {
		size += len(k) + len(v)
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			faults = append(faults, fmt.Errorf("metadata %q is not valid UTF-8", k))
		}
	}
	if size > MaxMetadata {
		faults = append(faults, fmt.Errorf("metadata has %d bytes, at most %d are allowed", size, MaxMetadata))
	}
	return errors.Join(faults...)
}

// checkName is everything that is wrong with the name of a group or member.
func checkName(what, name string) (faults []error) {
	switch {
	case name == "":
		return []error{fmt.Errorf("%s is empty", what)}
	case !utf8.ValidString(name):
		return []error{fmt.Errorf("%s is not valid UTF-8", what)}
	case len(name) > MaxName:
		faults = append(faults, fmt.Errorf("%s has %d bytes, at most %d are allowed", what, len(name), MaxName))
	}
	if strings.ContainsFunc(name, func(r rune) bool { return r == '/' || unicode.IsControl(r) }) {
		faults = append(faults, fmt.Errorf("%s %q has a slash or a control character", what, name))
	}
	return faults
}
