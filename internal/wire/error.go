package wire

import (
	"errors"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"holdfast.dev"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
)

// ErrAgain is in the chain of an error that ends one call of a wait which goes
// on: call again with the same session and request id, at any node.
var ErrAgain = errors.New("still waiting: call again with the same request id")

// codes maps each code to the status of the protocols, for clients that know
// only that one.
var codes = map[holdfast.Code]connect.Code{
	holdfast.CodeUnknown:   connect.CodeUnknown,
	holdfast.CodeBusy:      connect.CodeAlreadyExists,
	holdfast.CodeLost:      connect.CodeFailedPrecondition,
	holdfast.CodeFenced:    connect.CodeFailedPrecondition,
	holdfast.CodeConflict:  connect.CodeAborted,
	holdfast.CodeNoQuorum:  connect.CodeUnavailable,
	holdfast.CodeClosed:    connect.CodeUnavailable, // the node is stopping: another one will answer
	holdfast.CodeInvalid:   connect.CodeInvalidArgument,
	holdfast.CodeNotFound:  connect.CodeNotFound,
	holdfast.CodeCompacted: connect.CodeOutOfRange,
	holdfast.CodeExhausted: connect.CodeResourceExhausted,
	holdfast.CodeDenied:    connect.CodePermissionDenied,
	holdfast.CodeCanceled:  connect.CodeCanceled,
	holdfast.CodeDeadline:  connect.CodeDeadlineExceeded,
	holdfast.CodeInternal:  connect.CodeInternal,
}

// inferred maps a status without a detail back.
var inferred = map[connect.Code]holdfast.Code{
	connect.CodeCanceled:           holdfast.CodeCanceled,
	connect.CodeUnknown:            holdfast.CodeUnknown,
	connect.CodeInvalidArgument:    holdfast.CodeInvalid,
	connect.CodeDeadlineExceeded:   holdfast.CodeDeadline,
	connect.CodeNotFound:           holdfast.CodeNotFound,
	connect.CodeAlreadyExists:      holdfast.CodeBusy,
	connect.CodePermissionDenied:   holdfast.CodeDenied,
	connect.CodeResourceExhausted:  holdfast.CodeExhausted,
	connect.CodeFailedPrecondition: holdfast.CodeLost,
	connect.CodeAborted:            holdfast.CodeConflict,
	connect.CodeOutOfRange:         holdfast.CodeCompacted,
	connect.CodeUnimplemented:      holdfast.CodeInvalid,
	connect.CodeInternal:           holdfast.CodeInternal,
	connect.CodeUnavailable:        holdfast.CodeNoQuorum,
	connect.CodeDataLoss:           holdfast.CodeInternal,
	connect.CodeUnauthenticated:    holdfast.CodeDenied,
}

// An Option adds to the detail of an error on its way out.
type Option func(*v1.ErrorDetail)

// RetryAfter says how long to stay away.
func RetryAfter(d time.Duration) Option {
	return func(v *v1.ErrorDetail) { v.RetryAfterSeconds = d.Seconds() }
}

// ToConnect makes err what a handler returns. It leaves a *connect.Error as it
// is.
func ToConnect(err error, opts ...Option) *connect.Error {
	if err == nil {
		return nil
	}
	if ce, ok := errors.AsType[*connect.Error](err); ok {
		return ce
	}
	detail := &v1.ErrorDetail{
		Code:    v1.Code(holdfast.CodeOf(err)),
		Outcome: OutcomeToProto(holdfast.OutcomeOf(err)),
		Again:   errors.Is(err, ErrAgain),
	}
	if e, ok := errors.AsType[*holdfast.Error](err); ok {
		detail.RequestId = requestOf(e)
		if strings.HasPrefix(err.Error(), subject(e)) { // not wrapped in other words
			detail.Op, detail.Key = e.Op, e.Key
		}
	}
	for _, o := range opts {
		o(detail)
	}
	code := codes[holdfast.Code(detail.Code)]
	if detail.Again {
		code = connect.CodeUnavailable
	}
	ce := connect.NewError(code, errors.New(err.Error()))
	AddDetail(ce, detail)
	return ce
}

// Unauthenticated is the error for a caller who did not say who he is, or whom
// nobody knows.
func Unauthenticated(text string) *connect.Error {
	ce := connect.NewError(connect.CodeUnauthenticated, errors.New(text))
	AddDetail(ce, &v1.ErrorDetail{Code: v1.Code_CODE_DENIED, Outcome: v1.Outcome_OUTCOME_NOT_APPLIED})
	ce.Meta().Set("WWW-Authenticate", "Bearer")
	return ce
}

// AddDetail adds a detail to an error on its way out.
func AddDetail(ce *connect.Error, m proto.Message) {
	if d, err := connect.NewErrorDetail(m); err == nil { // fails only for a message that cannot be marshalled
		ce.AddDetail(d)
	}
}

// Detail is the first detail of type T in err, and whether there is one.
func Detail[T proto.Message](err error) (T, bool) {
	var none T
	ce, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return none, false
	}
	for _, d := range ce.Details() {
		if v, err := d.Value(); err == nil {
			if m, ok := v.(T); ok {
				return m, true
			}
		}
	}
	return none, false
}

// FromConnect makes what a client's stub returned a *holdfast.Error. Without a
// node's detail the outcome is Unknown.
func FromConnect(err error) error {
	if err == nil {
		return nil
	}
	ce, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return &holdfast.Error{Code: holdfast.CodeOf(err), Err: err}
	}
	d, ok := Detail[*v1.ErrorDetail](ce)
	if !ok {
		return &holdfast.Error{Code: inferred[ce.Code()], Err: remote{text: ce.Message(), cause: ce}}
	}
	e := &holdfast.Error{
		Op: d.GetOp(), Key: d.GetKey(), Code: holdfast.Code(d.GetCode()),
		Outcome: outcomeFromProto(d.GetOutcome()), Request: d.GetRequestId(),
	}
	if e.Code > holdfast.CodeInternal { // a newer node's
		e.Code = inferred[ce.Code()]
	}
	if e.Code == holdfast.CodeClosed { // the node closes, not the caller
		e.Code = holdfast.CodeNoQuorum
	}
	rest := strings.TrimPrefix(ce.Message(), subject(e))
	e.Err = remote{text: rest, code: e.Code, again: d.GetAgain(), cause: ce}
	return e
}

// IsWire says whether a node made the error, not the connection to it.
func IsWire(err error) bool {
	_, ok := Detail[*v1.ErrorDetail](err)
	return ok
}

// remote is the cause that a node told in words.
type remote struct {
	text  string
	code  holdfast.Code
	again bool
	cause *connect.Error
}

func (r remote) Error() string { return r.text }
func (r remote) Unwrap() error { return r.cause }

// Is matches the sentinel of the code, because the text has it already.
func (r remote) Is(target error) bool {
	if target == ErrAgain {
		return r.again
	}
	return r.code != holdfast.CodeUnknown && (&holdfast.Error{Code: r.code}).Is(target)
}

// subject is how the text of an error begins.
func subject(e *holdfast.Error) string {
	var b strings.Builder
	for _, s := range []string{e.Key, e.Op} {
		if s != "" {
			b.WriteString(s + ": ")
		}
	}
	return b.String()
}

// requestOf is the request id of the first error in the chain that has one.
func requestOf(e *holdfast.Error) string {
	for {
		if e.Request != "" {
			return e.Request
		}
		next, ok := errors.AsType[*holdfast.Error](e.Err)
		if !ok {
			return ""
		}
		e = next
	}
}

// OutcomeToProto is an outcome as the API shows it.
func OutcomeToProto(o holdfast.Outcome) v1.Outcome {
	switch o {
	case holdfast.Applied:
		return v1.Outcome_OUTCOME_APPLIED
	case holdfast.NotApplied:
		return v1.Outcome_OUTCOME_NOT_APPLIED
	case holdfast.Unknown:
	}
	return v1.Outcome_OUTCOME_UNKNOWN
}

func outcomeFromProto(o v1.Outcome) holdfast.Outcome {
	switch o {
	case v1.Outcome_OUTCOME_APPLIED:
		return holdfast.Applied
	case v1.Outcome_OUTCOME_NOT_APPLIED:
		return holdfast.NotApplied
	case v1.Outcome_OUTCOME_UNSPECIFIED, v1.Outcome_OUTCOME_UNKNOWN:
	}
	return holdfast.Unknown
}
