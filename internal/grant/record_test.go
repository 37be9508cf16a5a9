package grant

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast.dev/engine"
)

// TestRecord_EncodeAsJSON: what is written by hand is what encoding/json writes
// for the form that is read.
func TestRecord_EncodeAsJSON(t *testing.T) {
	claim := rapid.Custom(func(t *rapid.T) Claim {
		return Claim{
			Session: engine.SessionID(rapid.Int64Range(1, 1<<62).Draw(t, "session")),
			Agent:   engine.SessionID(rapid.Int64Range(1, 3).Draw(t, "agent")),
			Request: rapid.String().Draw(t, "request"), Note: rapid.String().Draw(t, "note"),
			Mode:    rapid.SampledFrom([]Mode{Exclusive, Shared, Permits}).Draw(t, "mode"),
			Permits: rapid.IntRange(0, 3).Draw(t, "permits"), Since: time.UnixMilli(rapid.Int64Range(0, 1<<42).Draw(t, "since")),
			Delay: time.Duration(rapid.IntRange(0, 2).Draw(t, "delay")), Value: rapid.SliceOf(rapid.Byte()).Draw(t, "value"),
			Granted: rapid.Int64Range(0, 9).Draw(t, "granted"), Ready: rapid.Bool().Draw(t, "ready"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		r := Record{
			Capacity: rapid.IntRange(0, 2).Draw(t, "capacity"), Run: rapid.IntRange(0, 2).Draw(t, "run"), Delayed: rapid.Bool().Draw(t, "delayed"),
			Holders: rapid.SliceOfN(claim, 0, 3).Draw(t, "holders"), Queue: rapid.SliceOfN(claim, 0, 3).Draw(t, "queue"),
		}
		if rapid.Bool().Draw(t, "has vanished") {
			v := claim.Draw(t, "vanished")
			r.Vanished = &v
		}
		got, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		var form storedRecord
		if err := json.Unmarshal(got, &form); err != nil {
			t.Fatalf("%s: %v", got, err)
		}
		want, err := json.Marshal(form)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("got  %s\nwant %s", got, want)
		}
		if len(form.Holders) != len(r.Holders) || len(form.Queue) != len(r.Queue) || (form.Vanished == nil) != (r.Vanished == nil) {
			t.Fatalf("%s lacks something of %+v", got, r)
		}
	})
}
