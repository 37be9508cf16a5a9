// Package doctor finds out what is wrong with a cluster and says it in words.
// It asks every node how it sees itself, runs a synthetic transaction through
// the real API (session, lock, keys, watch, release), and judges what it saw.
//
// # Use
//
//	report := doctor.Run(ctx, doctor.Config{Endpoints: []string{"http://127.0.0.1:7450"}})
//	for _, f := range report.Findings {
//	    fmt.Println(f.Severity, f.What, f.Why, f.Hint)
//	}
//
// # Promises
//
//   - It changes nothing but names below Config.Prefix, under a session of its
//     own that it closes; what it leaves behind, if it is interrupted, goes with
//     that session's TTL.
//   - It ends in a bounded time also when nothing answers.
//   - A finding is a thing that was seen, with why it matters and what to do.
//
// # What you must do
//
// Give it a token or certificate that may write below the prefix; with less it
// says what it could not try.
//
// # When it goes wrong
//
// Everything that goes wrong is a finding. Clock skew is measured to within
// half a round trip, and not reported below that.
//
// # Testing
//
// judge is pure; Run is tested against internal/server.
package doctor
