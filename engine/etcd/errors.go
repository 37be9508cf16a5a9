package etcd

import (
	"context"
	"errors"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast.dev"
)

// verdict is what one of etcd's errors means to a caller.
type verdict struct {
	code holdfast.Code
	// outcome of a change. NotApplied only where the server refuses before it
	// proposes anything, or refuses while applying, before it writes.
	outcome holdfast.Outcome
}

// verdicts are etcd's errors by their text, which is what crosses the wire.
var verdicts = map[string]verdict{}

func init() {
	for code, list := range map[holdfast.Code][]error{
		holdfast.CodeInvalid: {
			rpctypes.ErrGRPCEmptyKey, rpctypes.ErrGRPCKeyNotFound, rpctypes.ErrGRPCValueProvided,
			rpctypes.ErrGRPCLeaseProvided, rpctypes.ErrGRPCTooManyOps, rpctypes.ErrGRPCDuplicateKey,
			rpctypes.ErrGRPCInvalidSortOption, rpctypes.ErrGRPCFutureRev, rpctypes.ErrGRPCRequestTooLarge,
			rpctypes.ErrGRPCLeaseTTLTooLarge, rpctypes.ErrGRPCInvalidClientAPIVersion,
			rpctypes.ErrGRPCMemberBadURLs, rpctypes.ErrGRPCMemberNotLearner, rpctypes.ErrGRPCBadLeaderTransferee,
		},
		holdfast.CodeConflict: {
			rpctypes.ErrGRPCLeaseExist, rpctypes.ErrGRPCMemberExist, rpctypes.ErrGRPCPeerURLExist,
		},
		holdfast.CodeNotFound:  {rpctypes.ErrGRPCLeaseNotFound, rpctypes.ErrGRPCMemberNotFound},
		holdfast.CodeCompacted: {rpctypes.ErrGRPCCompacted},
		holdfast.CodeExhausted: {rpctypes.ErrGRPCRequestTooManyRequests, rpctypes.ErrGRPCTooManyLearners},
		holdfast.CodeBusy:      {rpctypes.ErrGRPCLearnerNotReady, rpctypes.ErrGRPCMemberNotEnoughStarted},
		holdfast.CodeDenied: {
			rpctypes.ErrGRPCUserEmpty, rpctypes.ErrGRPCUserNotFound, rpctypes.ErrGRPCAuthFailed,
			rpctypes.ErrGRPCPermissionNotGiven, rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCRoleNotGranted,
			rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCAuthOldRevision, rpctypes.ErrGRPCInvalidAuthMgmt,
		},
		// No leader is told before anything is proposed; a learner and a member
		// that does not know the cluster's version refuse everything; a change of
		// members is refused while some are missing.
		holdfast.CodeNoQuorum: {
			rpctypes.ErrGRPCNoLeader, rpctypes.ErrGRPCNotLeader, rpctypes.ErrGRPCNotSupportedForLearner,
			rpctypes.ErrGRPCNotCapable, rpctypes.ErrGRPCUnhealthy,
		},
		holdfast.CodeUnknown: {rpctypes.ErrGRPCCorrupt},
	} {
		for _, err := range list {
			verdicts[rpctypes.ErrorDesc(err)] = verdict{code, holdfast.NotApplied}
		}
	}
	for _, err := range []error{
		rpctypes.ErrGRPCLeaderChanged, rpctypes.ErrGRPCTimeout, rpctypes.ErrGRPCTimeoutDueToLeaderFail,
		rpctypes.ErrGRPCTimeoutDueToConnectionLost, rpctypes.ErrGRPCTimeoutWaitAppliedIndex,
		rpctypes.ErrGRPCStopped,
	} {
		verdicts[rpctypes.ErrorDesc(err)] = verdict{holdfast.CodeNoQuorum, holdfast.Unknown}
	}
	// A transaction over the quota is applied and still answered with this error
	// (etcd: apply/quota.go), so nobody can tell.
	verdicts[rpctypes.ErrorDesc(rpctypes.ErrGRPCNoSpace)] = verdict{holdfast.CodeExhausted, holdfast.Unknown}
	// The member's own consensus refused to take the proposal.
	verdicts["raft proposal dropped"] = verdict{holdfast.CodeNoQuorum, holdfast.NotApplied}
	// A lease is renewed by the leader; this member was it a moment ago.
	verdicts["not a primary lessor"] = verdict{holdfast.CodeNoQuorum, holdfast.NotApplied}
}

// judge gives the meaning of an error of a call that ran under ctx, the
// caller's own. sent is whether any byte of the request may have left.
func judge(ctx context.Context, err error, sent bool) verdict {
	v, known := classify(err, sent)
	if e := ctx.Err(); e != nil && !known {
		v.code = contextCode(e)
	}
	return v
}

// classify is judge without a context; known says that etcd itself gave the
// error.
func classify(err error, sent bool) (v verdict, known bool) {
	st, _ := status.FromError(err)
	if v, ok := verdicts[st.Message()]; ok {
		return v, true
	}
	unknown := holdfast.Unknown
	if !sent {
		unknown = holdfast.NotApplied
	}
	switch st.Code() { //nolint:exhaustive // etcd's own uses of the others are in the table
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return verdict{holdfast.CodeNoQuorum, unknown}, false
	case codes.ResourceExhausted:
		// gRPC's own, on either side, before the request was read.
		if strings.Contains(st.Message(), "larger than max") {
			return verdict{holdfast.CodeInvalid, holdfast.NotApplied}, true
		}
		return verdict{holdfast.CodeExhausted, unknown}, false
	case codes.PermissionDenied, codes.Unauthenticated:
		return verdict{holdfast.CodeDenied, holdfast.NotApplied}, true
	case codes.Unimplemented:
		return verdict{holdfast.CodeInvalid, holdfast.NotApplied}, true
	default:
		if contextCode(err) != holdfast.CodeUnknown {
			return verdict{holdfast.CodeNoQuorum, unknown}, false
		}
		return verdict{holdfast.CodeUnknown, unknown}, false
	}
}

// contextCode is the code of a context's error.
func contextCode(err error) holdfast.Code {
	switch {
	case errors.Is(err, context.Canceled):
		return holdfast.CodeCanceled
	case errors.Is(err, context.DeadlineExceeded):
		return holdfast.CodeDeadline
	}
	return holdfast.CodeUnknown
}

// staleToken reports an error after which a new token may help; nothing was
// proposed then.
func staleToken(err error) bool {
	st, _ := status.FromError(err)
	switch st.Message() {
	case rpctypes.ErrorDesc(rpctypes.ErrGRPCInvalidAuthToken), rpctypes.ErrorDesc(rpctypes.ErrGRPCUserEmpty),
		rpctypes.ErrorDesc(rpctypes.ErrGRPCAuthOldRevision):
		return true
	}
	return false
}

// suspect reports errors that another member might not have given.
func suspect(c holdfast.Code) bool {
	return c == holdfast.CodeNoQuorum || c == holdfast.CodeDeadline
}

// Judge gives the meaning of an error that etcd gave to a request to change
// something, made directly to a server or over gRPC under ctx.
func Judge(ctx context.Context, err error) (holdfast.Code, holdfast.Outcome) {
	v := judge(ctx, err, true)
	return v.code, v.outcome
}
