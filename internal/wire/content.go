package wire

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// content is any message with the pair "value" or "text".
type content interface {
	GetValue() []byte
	GetText() string
}

// Bytes is the value of a message, whichever of the two forms it has.
func Bytes(m content) []byte {
	if t := m.GetText(); t != "" {
		return []byte(t)
	}
	return m.GetValue()
}

// Duration is d as a message, nil for nil: absent stays absent.
func Duration(d *durationpb.Duration) *time.Duration {
	if d == nil {
		return nil
	}
	v := d.AsDuration()
	return &v
}

// Timestamp is t as a message; the zero time is absent.
func Timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
