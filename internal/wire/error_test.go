package wire_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"connectrpc.com/connect"

	"holdfast.dev"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/internal/wire"
)

// Every code of the root package has a status and the same number and word in
// the proto file; this is the table.
func TestCodes(t *testing.T) {
	table := []struct {
		code  holdfast.Code
		proto v1.Code
		want  connect.Code
	}{
		{holdfast.CodeUnknown, v1.Code_CODE_UNSPECIFIED, connect.CodeUnknown},
		{holdfast.CodeBusy, v1.Code_CODE_BUSY, connect.CodeAlreadyExists},
		{holdfast.CodeLost, v1.Code_CODE_LOST, connect.CodeFailedPrecondition},
		{holdfast.CodeFenced, v1.Code_CODE_FENCED, connect.CodeFailedPrecondition},
		{holdfast.CodeConflict, v1.Code_CODE_CONFLICT, connect.CodeAborted},
		{holdfast.CodeNoQuorum, v1.Code_CODE_NO_QUORUM, connect.CodeUnavailable},
		{holdfast.CodeClosed, v1.Code_CODE_CLOSED, connect.CodeUnavailable},
		{holdfast.CodeInvalid, v1.Code_CODE_INVALID, connect.CodeInvalidArgument},
		{holdfast.CodeNotFound, v1.Code_CODE_NOT_FOUND, connect.CodeNotFound},
		{holdfast.CodeCompacted, v1.Code_CODE_COMPACTED, connect.CodeOutOfRange},
		{holdfast.CodeExhausted, v1.Code_CODE_EXHAUSTED, connect.CodeResourceExhausted},
		{holdfast.CodeDenied, v1.Code_CODE_DENIED, connect.CodePermissionDenied},
		{holdfast.CodeCanceled, v1.Code_CODE_CANCELED, connect.CodeCanceled},
		{holdfast.CodeDeadline, v1.Code_CODE_DEADLINE, connect.CodeDeadlineExceeded},
		{holdfast.CodeInternal, v1.Code_CODE_INTERNAL, connect.CodeInternal},
	}
	if got, want := len(v1.Code_name), len(table); got != want {
		t.Errorf("%d codes in the proto file, %d in the table", got, want)
	}
	if next := holdfast.Code(len(table)); next.String() != holdfast.CodeUnknown.String() {
		t.Errorf("code %v is not in the table", next)
	}
	for _, c := range table {
		if holdfast.Code(c.proto) != c.code {
			t.Errorf("%v is %d in proto, %d in Go", c.proto, c.proto, c.code)
		}
		ce := wire.ToConnect(&holdfast.Error{Code: c.code})
		if ce.Code() != c.want {
			t.Errorf("%v goes out as %v, want %v", c.code, ce.Code(), c.want)
		}
		want := c.code
		if want == holdfast.CodeClosed { // it is the node that closes: try another
			want = holdfast.CodeNoQuorum
		}
		if got := holdfast.CodeOf(wire.FromConnect(ce)); got != want {
			t.Errorf("%v comes back as %v, want %v", c.code, got, want)
		}
	}
}

func TestErrors_SameOnBothSides(t *testing.T) {
	for _, err := range []error{
		&holdfast.Error{Key: "lock a", Op: "acquire", Code: holdfast.CodeBusy, Outcome: holdfast.NotApplied},
		&holdfast.Error{Key: "lock a", Op: "acquire", Code: holdfast.CodeBusy, Outcome: holdfast.NotApplied, Err: errors.New("you hold it")},
		&holdfast.Error{Key: "kv a", Op: "put", Code: holdfast.CodeNoQuorum, Request: "00ab54a98ceb1f0a.3.17", Err: context.DeadlineExceeded},
		&holdfast.Error{Op: "put", Code: holdfast.CodeDeadline, Err: &holdfast.Error{Request: "00ab54a98ceb1f0a.3.17", Code: holdfast.CodeDeadline}},
		&holdfast.Error{Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: errors.New("name: is empty")},
		&holdfast.Error{Key: "a", Code: holdfast.CodeUnknown, Outcome: holdfast.Applied},
		fmt.Errorf("outer: %w", &holdfast.Error{Key: "lock a", Op: "release", Code: holdfast.CodeLost, Outcome: holdfast.NotApplied}),
	} {
		t.Run(err.Error(), func(t *testing.T) {
			got := wire.FromConnect(wire.ToConnect(err))
			if got.Error() != err.Error() {
				t.Errorf("text %q, want %q", got, err)
			}
			if c, want := holdfast.CodeOf(got), holdfast.CodeOf(err); c != want {
				t.Errorf("code %v, want %v", c, want)
			}
			if o, want := holdfast.OutcomeOf(got), holdfast.OutcomeOf(err); o != want {
				t.Errorf("outcome %v, want %v", o, want)
			}
			for _, s := range []error{holdfast.ErrBusy, holdfast.ErrLost, holdfast.ErrNoQuorum, holdfast.ErrInvalid} {
				if errors.Is(got, s) != errors.Is(err, s) {
					t.Errorf("errors.Is(%v) is %v, want %v", s, errors.Is(got, s), errors.Is(err, s))
				}
			}
			if !wire.IsWire(got) {
				t.Error("not known as a node's")
			}
		})
	}
}

func TestErrors_RequestOfTheInnermost(t *testing.T) {
	err := wire.FromConnect(wire.ToConnect(&holdfast.Error{Op: "put", Code: holdfast.CodeDeadline, Err: &holdfast.Error{Request: "00ab54a98ceb1f0a.3.17"}}))
	if e, ok := errors.AsType[*holdfast.Error](err); !ok || e.Request != "00ab54a98ceb1f0a.3.17" {
		t.Errorf("request is lost: %#v", err)
	}
}

func TestFromConnect_WithoutDetailIsUnknown(t *testing.T) {
	err := wire.FromConnect(connect.NewError(connect.CodeUnavailable, errors.New("connection refused")))
	if !errors.Is(err, holdfast.ErrNoQuorum) || holdfast.OutcomeOf(err) != holdfast.Unknown || wire.IsWire(err) {
		t.Errorf("got %v, outcome %v", err, holdfast.OutcomeOf(err))
	}
	if err := wire.FromConnect(context.Canceled); holdfast.CodeOf(err) != holdfast.CodeCanceled {
		t.Errorf("got %v", err)
	}
}

func TestErrAgain(t *testing.T) {
	ce := wire.ToConnect(&holdfast.Error{Key: "lock a", Op: "acquire", Code: holdfast.CodeBusy, Request: "r1", Err: wire.ErrAgain})
	if ce.Code() != connect.CodeUnavailable {
		t.Errorf("goes out as %v", ce.Code())
	}
	if err := wire.FromConnect(ce); !errors.Is(err, wire.ErrAgain) || holdfast.OutcomeOf(err) != holdfast.Unknown {
		t.Errorf("comes back as %v, %v", err, holdfast.OutcomeOf(err))
	}
}
