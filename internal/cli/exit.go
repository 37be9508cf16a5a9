package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"holdfast.dev"
)

// The exit codes of the holdfast binary.
const (
	ExitOK          = 0   // done; the answer is yes
	ExitNo          = 1   // asked, and the answer is no: busy, conflict, not found, denied
	ExitUnknown     = 2   // nobody can tell whether the change happened
	ExitUsage       = 64  // the command or its configuration is wrong
	ExitNoQuorum    = 69  // no node or no majority answered
	ExitInternal    = 70  // a defect of Holdfast, or of the machine under it
	ExitLost        = 123 // run: the lock or leadership was lost and the command stopped
	ExitNotAcquired = 124 // run: not acquired in time
	ExitRunFailed   = 125 // run: Holdfast failed, the command did not start
	ExitNotRunnable = 126 // run: the command exists but cannot be executed
	ExitNotFound    = 127 // run: there is no such command
	ExitInterrupted = 130 // stopped by Ctrl-C
)

// coded is an error with an exit code of its own.
type coded struct {
	error
	code int
}

func (c coded) Unwrap() error { return c.error }

// hinted is an error with advice.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// WithCode gives err an exit code; nil stays nil.
func WithCode(err error, code int) error {
	if err == nil {
		return nil
	}
	return coded{err, code}
}

// WithHint gives err a line of advice; nil stays nil.
func WithHint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return hinted{err, fmt.Sprintf(format, args...)}
}

// Usage is a fault of whoever typed the command.
func Usage(format string, args ...any) error {
	return WithCode(fmt.Errorf(format, args...), ExitUsage)
}

// Silent ends the command with a code and no message: the output said it all.
func Silent(code int) error { return coded{errSilent, code} }

var errSilent = errors.New("")

// CodeOf is the exit code for what a command returned.
func CodeOf(err error) int {
	if err == nil {
		return ExitOK
	}
	if c, ok := errors.AsType[coded](err); ok {
		return c.code
	}
	switch holdfast.CodeOf(err) {
	case holdfast.CodeBusy, holdfast.CodeLost, holdfast.CodeFenced, holdfast.CodeConflict, holdfast.CodeNotFound,
		holdfast.CodeCompacted, holdfast.CodeExhausted, holdfast.CodeDenied:
		return ExitNo
	case holdfast.CodeInvalid:
		return ExitUsage
	case holdfast.CodeCanceled:
		return ExitInterrupted
	case holdfast.CodeNoQuorum, holdfast.CodeDeadline:
		if e, ok := errors.AsType[*holdfast.Error](err); ok && e.Outcome == holdfast.Unknown {
			return ExitUnknown
		}
		return ExitNoQuorum
	case holdfast.CodeUnknown:
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) { // a file that was named
			return ExitUsage
		}
		if e, ok := errors.AsType[*holdfast.Error](err); ok && e.Outcome == holdfast.Unknown {
			return ExitUnknown
		}
	case holdfast.CodeClosed, holdfast.CodeInternal:
	}
	return ExitInternal
}

// Report writes the error and its hint to w and gives the exit code.
func Report(w io.Writer, err error) int {
	code := CodeOf(err)
	if err == nil || errors.Is(err, errSilent) {
		return code
	}
	if code == ExitInterrupted && errors.Is(err, context.Canceled) {
		return code
	}
	t := NewText(w)
	for line := range strings.SplitSeq(strings.TrimRight(err.Error(), "\n"), "\n") {
		t.Printf("holdfast: %s\n", line)
	}
	if hint := hintFor(err); hint != "" {
		t.Printf("hint: %s\n", hint)
	}
	return code
}

// hintFor is the advice given with the error, or that of its code.
func hintFor(err error) string {
	if h, ok := errors.AsType[hinted](err); ok {
		return h.hint
	}
	if e, ok := errors.AsType[*holdfast.Error](err); ok && e.Outcome == holdfast.Unknown && CodeOf(err) == ExitUnknown {
		return "the change may have happened: read before you repeat it"
	}
	switch holdfast.CodeOf(err) {
	case holdfast.CodeNoQuorum, holdfast.CodeDeadline:
		for _, h := range tlsHints {
			if strings.Contains(err.Error(), h.text) {
				return h.hint
			}
		}
		return "is a node running, and does a majority see each other? try: holdfast doctor, or start one: holdfast dev"
	case holdfast.CodeDenied:
		return "give a token that allows it with --auth-token or HOLDFAST_AUTH_TOKEN"
	case holdfast.CodeExhausted:
		return "a limit of the server was reached; wait, or raise the limit there"
	case holdfast.CodeFenced:
		return "somebody else has taken over: stop, and do not repeat the effect"
	case holdfast.CodeInternal:
		return "this is a defect of Holdfast; please report it with the command that shows it"
	case holdfast.CodeUnknown, holdfast.CodeBusy, holdfast.CodeLost, holdfast.CodeConflict, holdfast.CodeClosed,
		holdfast.CodeInvalid, holdfast.CodeNotFound, holdfast.CodeCompacted, holdfast.CodeCanceled:
	}
	return ""
}

// tlsHints is what to try when a node was reached and spoke otherwise. The
// errors come from the connection as text.
var tlsHints = []struct{ text, hint string }{
	{"certificate signed by unknown authority", "name the authority of the nodes' certificates with --ca or HOLDFAST_CA"},
	{"HTTP response to HTTPS client", "the node serves without TLS: the endpoint begins with http://"},
	{"unexpected EOF", "if the node serves TLS, the endpoint begins with https://; otherwise try: holdfast doctor"},
	{"client conn could not be established", "if the node serves TLS, the endpoint begins with https://; otherwise try: holdfast doctor"},
	{"connection reset by peer", "if the node serves TLS, the endpoint begins with https://; otherwise try: holdfast doctor"},
	{"certificate required", "the nodes demand a client certificate: give it with --cert and --key"},
}
