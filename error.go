package holdfast

import (
	"errors"
	"strings"
)

// Code names the reason of an [Error]. Codes cross the wire; callers decide on
// the sentinels (ErrBusy, …) with errors.Is.
type Code uint8

// The codes.
const (
	CodeUnknown   Code = iota // not classified; the wrapped error says more
	CodeBusy                  // held by another
	CodeLost                  // the session or the grant was yours and is not any more
	CodeFenced                // the token is older than one the resource has seen
	CodeConflict              // a compare failed
	CodeNoQuorum              // no majority answered in time
	CodeClosed                // the object was closed by this process
	CodeInvalid               // the request can never succeed as it is
	CodeNotFound              // there is nothing of that name
	CodeCompacted             // the revision asked for is gone from history
	CodeExhausted             // a limit was reached: quota, rate, sessions, waiters
	CodeDenied                // not allowed by role or prefix
	CodeCanceled              // the caller's context was cancelled
	CodeDeadline              // the caller's context ran out
	CodeInternal              // a defect of Holdfast
)

// codeWords are the codes as they stand in text and JSON.
var codeWords = [...]string{
	"unknown", "busy", "lost", "fenced", "conflict", "no quorum", "closed", "invalid", "not found",
	"compacted", "exhausted", "denied", "canceled", "deadline", "internal",
}

// String is the code in words, lower case.
func (c Code) String() string {
	if int(c) < len(codeWords) {
		return codeWords[c]
	}
	return codeWords[CodeUnknown]
}

// ParseCode reads what String writes; anything else is CodeUnknown.
func ParseCode(s string) Code {
	for i, w := range codeWords {
		if w == s {
			return Code(i)
		}
	}
	return CodeUnknown
}

// The sentinels, one per decision a caller makes.
var (
	// ErrBusy: another holds it. Wait, or come back later.
	ErrBusy = errors.New("held by another")
	// ErrLost: the session or the grant was yours and is not any more. Stop
	// acting; open a new session if you still want it.
	ErrLost = errors.New("lost")
	// ErrFenced: the token is older than one the resource has seen. Somebody
	// else has taken over: stop, and do not repeat the effect.
	ErrFenced = errors.New("fenced: token too old")
	// ErrConflict: a compare failed. Read again and decide anew.
	ErrConflict = errors.New("conflict")
	// ErrNoQuorum: no majority answered in time. Try again; see Outcome for
	// whether the change may have happened.
	ErrNoQuorum = errors.New("no quorum")
	// ErrClosed: this process closed the object. A defect of the caller.
	ErrClosed = errors.New("closed")
	// ErrInvalid: the request can never succeed as it is. Mend it.
	ErrInvalid = errors.New("invalid")
	// ErrNotFound: there is nothing of that name.
	ErrNotFound = errors.New("not found")
	// ErrCompacted: the revision asked for is no longer in history. Read the
	// present state and go on from there.
	ErrCompacted = errors.New("compacted")
	// ErrExhausted: a limit was reached. Slow down, or ask for a higher limit.
	ErrExhausted = errors.New("limit reached")
	// ErrDenied: the caller's role or prefix does not allow it.
	ErrDenied = errors.New("denied")
)

// sentinelOf is the sentinel of each code that has one.
var sentinelOf = map[Code]error{
	CodeBusy: ErrBusy, CodeLost: ErrLost, CodeFenced: ErrFenced, CodeConflict: ErrConflict,
	CodeNoQuorum: ErrNoQuorum, CodeClosed: ErrClosed, CodeInvalid: ErrInvalid, CodeNotFound: ErrNotFound,
	CodeCompacted: ErrCompacted, CodeExhausted: ErrExhausted, CodeDenied: ErrDenied,
}

// An Error says which operation on which key failed, why, and whether the
// change happened all the same.
type Error struct {
	Op      string  // what was tried, lower case: "acquire"
	Key     string  // on what: "lock jobs/nightly"; empty when there is no one subject
	Code    Code    // why
	Outcome Outcome // whether it happened
	Request string  // the request id of an unknown outcome that can be resolved, or empty
	Err     error   // the cause, or nil
}

// Error reads subject first, lower case, without "failed to":
// "lock jobs/nightly: acquire: no quorum".
func (e *Error) Error() string {
	parts := make([]string, 0, 4)
	for _, s := range []string{e.Key, e.Op} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	sentinel := sentinelOf[e.Code]
	switch {
	case e.Err == nil && sentinel != nil:
		parts = append(parts, sentinel.Error())
	case e.Err == nil:
		parts = append(parts, e.Code.String())
	case sentinel != nil && !errors.Is(e.Err, sentinel):
		parts = append(parts, sentinel.Error(), e.Err.Error())
	default:
		parts = append(parts, e.Err.Error())
	}
	return strings.Join(parts, ": ")
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is matches the sentinel of the error's code.
func (e *Error) Is(target error) bool {
	s := sentinelOf[e.Code]
	return s != nil && s == target
}

// CodeOf is the code of the first [Error] in the chain; a bare context error
// has its own code, anything else is CodeUnknown.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return contextCode(err)
}
