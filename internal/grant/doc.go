// Package grant is the fair queue on one record that locks and elections are:
// who holds a name and who waits for it, in one key of the quorum, replaced by
// compare-and-set.
//
// # Use
//
// One [Agent] per process and kind. Acquire waits for a grant on behalf of an
// owner (a session and a request id), Release gives it back. The agent works on
// a name with at most one transaction at a time; what arrives meanwhile is
// decided together in the next one.
//
// # Promises
//
//   - A grant is a write guarded by the record's revision and by the existence
//     of the owner's session; its revision is the token. Revisions of one name
//     only grow.
//   - A grant ends by Release of its own owner and request, or by the end of its
//     session, and by nothing else. Repeating either is harmless.
//   - First come, first served, through the record's queue, with one bounded
//     exception: an agent may hand over between its own claims localRun times
//     in a row, in one transaction each, while claims of other agents wait.
//   - A claim that was given up is not granted later, even if a request for it
//     is still under way: the agent retires its guard first (see
//     engine.Session.Retire).
//
// # What you must do
//
// Close the agent before its session. Watch the session: a grant says nothing
// of time.
//
// # When it goes wrong
//
// Without a quorum, calls wait until their context ends. When the agent's own
// session is lost, every call ends with holdfast.ErrLost. Claims of an agent
// that died leave the queue as soon as anybody else works on the record; grants
// it made on behalf of other sessions stay.
//
// # Testing
//
// decide is pure and has transcripts in testdata; the simulations of packages
// lock and election run everything else.
package grant
