package client

import (
	"holdfast.dev/engine"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/internal/wire"
	"holdfast.dev/kv"
)

// entryOf reads an entry of an answer; readAt is the revision of what was read.
func entryOf(m *v1.Entry, readAt int64) (kv.Entry, error) {
	e := kv.Entry{
		Key: m.GetKey(), Value: wire.Bytes(m), Revision: m.GetRevision(), CreateRevision: m.GetCreateRevision(),
		Version: m.GetVersion(), ReadRevision: readAt,
	}
	if m.GetSession() == "" {
		return e, nil
	}
	id, err := engine.ParseSessionID(m.GetSession())
	e.Session = id
	return e, err
}
