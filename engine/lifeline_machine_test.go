package engine

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"holdfast.dev"
)

// TestLifelineMachine runs the transcripts in testdata/lifeline. Times are
// seconds since the session was opened by a request sent at 0.
//
//	open ttl=10s
//	renewed sent=3.3 at=3.4    the answer to a renewal
//	failed at=3.4              no answer, or an error that may pass
//	refused at=3.4             the session is gone
//	tick at=5
//	close
func TestLifelineMachine(t *testing.T) {
	datadriven.Walk(t, "testdata/lifeline", func(t *testing.T, path string) {
		var core lifelineCore
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			at, sent := instant(t, d, "at"), instant(t, d, "sent")
			switch d.Cmd {
			case "open":
				var ttl time.Duration
				for _, a := range d.CmdArgs {
					ttl, _ = time.ParseDuration(a.Vals[0])
				}
				core = newLifelineCore(0, ttl)
			case "renewed":
				core.answered(at, sent, core.ttl, nil)
			case "failed":
				core.answered(at, sent, 0, errors.New("lost on the way"))
			case "refused":
				core.answered(at, sent, 0, &holdfast.Error{Code: holdfast.CodeLost})
			case "tick":
				core.tick(at)
			case "close":
				core.close()
			default:
				d.Fatalf(t, "unknown command")
			}
			return fmt.Sprintf("%v, valid until %.1f, renew at %.1f, look again in %.2f\n",
				core.state, seconds(core.validUntil()), seconds(core.renewAt), core.next(at, false).Seconds())
		})
	})
}

func instant(t *testing.T, d *datadriven.TestData, key string) Instant {
	t.Helper()
	for _, a := range d.CmdArgs {
		if a.Key == key {
			v, err := time.ParseDuration(a.Vals[0] + "s")
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			return Instant(v)
		}
	}
	return 0
}

func seconds(i Instant) float64 { return time.Duration(i).Seconds() }

func TestSessionState_String(t *testing.T) {
	var got []string
	for s := range Closed + 2 {
		got = append(got, s.String())
	}
	if s := strings.Join(got, " "); s != "none safe jeopardy lost closed none" {
		t.Error(s)
	}
}
