package holdfast

import (
	"context"
	"errors"
)

// Outcome says what became of a call that was to change something. The words
// are those of Jepsen's histories: ok, fail, info.
type Outcome uint8

const (
	// Unknown means that the change may have happened, may happen later, or may never
	// happen. It is the zero value, because it is what one knows without
	// evidence.
	Unknown Outcome = iota
	// Applied means that the change has happened.
	Applied
	// NotApplied means that the change has not happened and never will.
	NotApplied
)

// String is "unknown", "applied" or "not applied".
func (o Outcome) String() string {
	switch o {
	case Applied:
		return "applied"
	case NotApplied:
		return "not applied"
	case Unknown:
	}
	return "unknown"
}

// OutcomeOf says what is known after a call returned err: Applied for nil, what
// an [Error] in the chain says, and otherwise Unknown — also for a context
// error, which says that the caller stopped waiting, not that nothing happened.
func OutcomeOf(err error) Outcome {
	if err == nil {
		return Applied
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Outcome
	}
	return Unknown
}

// contextCode maps a context's error to a code, CodeUnknown for anything else.
func contextCode(err error) Code {
	switch {
	case errors.Is(err, context.Canceled):
		return CodeCanceled
	case errors.Is(err, context.DeadlineExceeded):
		return CodeDeadline
	}
	return CodeUnknown
}
