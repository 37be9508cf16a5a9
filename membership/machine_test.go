package membership

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"holdfast.dev/engine"
)

// TestMachine runs the transcripts in testdata/machine:
//
//	relist rev=N [alive=S]   all records at revision N, one a line as
//	                         "ID created=N mod=N session=N present|left ADDRESS";
//	                         alive: the session, of those missing, that is
//	batch rev=N              changes, a line each, as above, or "ID mod=N deleted"
//
// Run with -rewrite, and commit the difference only if you understand it.
func TestMachine(t *testing.T) {
	datadriven.Walk(t, "testdata/machine", func(t *testing.T, path string) {
		v := view{group: "g"}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var rev int64
			d.ScanArgs(t, "rev", &rev)
			var changes []engine.Event
			var kvs []engine.KV
			for line := range strings.Lines(d.Input) {
				ev := readChange(t, line)
				changes = append(changes, ev)
				kvs = append(kvs, ev.KV)
			}
			var (
				events []Event
				err    error
				b      strings.Builder
			)
			switch d.Cmd {
			case "relist":
				alive := map[engine.SessionID]bool{}
				if d.HasArg("alive") {
					var id int64
					d.ScanArgs(t, "alive", &id)
					alive[engine.SessionID(id)] = true
				}
				for _, id := range v.missing(kvs) {
					fmt.Fprintf(&b, "is session %d alive? %v\n", int64(id), alive[id])
				}
				events, err = v.relist(kvs, rev, alive)
			case "batch":
				events, err = v.apply(engine.WatchBatch{Revision: rev, Events: changes})
			default:
				return "unknown command " + d.Cmd
			}
			for _, ev := range events {
				gap := ""
				if ev.Gap {
					gap = " (gap)"
				}
				fmt.Fprintf(&b, "%v %s %s at %d%s\n", ev.Kind, ev.Member.ID, ev.Member.Address, ev.Revision, gap)
			}
			if err != nil {
				fmt.Fprintln(&b, err)
			}
			fmt.Fprintf(&b, "%d present, next=%d\n", len(v.members), v.next)
			return b.String()
		})
	})
}

func readChange(t *testing.T, line string) engine.Event {
	t.Helper()
	w := strings.Fields(line)
	ev := engine.Event{KV: engine.KV{Key: recordKey("g", w[0])}}
	r := record{State: present}
	for _, f := range w[1:] {
		name, value, _ := strings.Cut(f, "=")
		n, _ := strconv.ParseInt(value, 10, 64)
		switch name {
		case "created":
			ev.KV.CreateRevision = n
		case "mod":
			ev.KV.ModRevision = n
		case "session":
			ev.KV.Lease = engine.LeaseID(n)
		case "deleted":
			ev.Deleted = true
		case "nonsense":
			ev.KV.Value = []byte("{")
		case present, left:
			r.State = name
		default:
			r.Address = f
		}
	}
	if ev.KV.Value == nil && !ev.Deleted {
		ev.KV.Value = r.encode()
	}
	return ev
}
