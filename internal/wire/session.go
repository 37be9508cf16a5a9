package wire

import (
	"maps"

	"google.golang.org/protobuf/types/known/durationpb"

	"holdfast.dev/engine"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
)

// PrincipalKey is where a session's metadata says who opened it. Clients cannot
// set it.
const PrincipalKey = "holdfast.principal"

// SessionToProto is a session as the API shows it.
func SessionToProto(rec engine.SessionRecord) *v1.Session {
	m := &v1.Session{
		Session: rec.ID.String(), Name: rec.Name, Ttl: durationpb.New(rec.TTL),
		Metadata: maps.Clone(rec.Metadata), Epoch: uint32(rec.Epoch), Principal: rec.Metadata[PrincipalKey],
	}
	delete(m.Metadata, PrincipalKey)
	return m
}
