package holdfast

import (
	"fmt"
	"strconv"
)

// A Token is a fencing token: a number that grows with every grant of one
// name, so that a resource which remembers the highest token it has seen can
// refuse a holder that was replaced. The upper 16 bits are the epoch, raised
// whenever a store is restored from a backup; the lower 48 are the revision of
// the transaction that made the grant.
//
// Tokens of different names must not be compared. The zero Token is no token:
// it is lower than every token that is ever issued. Epochs stay below 32,768,
// so a Token also fits a signed 64-bit SQL column; as JSON it is a string,
// because JavaScript rounds numbers above 2^53.
//
// Sources: the sequencer of Chubby (Burrows 2006); Kleppmann, "How to do
// distributed locking" (2016).
type Token uint64

const (
	revisionBits = 48

	// MaxEpoch is the highest epoch a token can carry.
	MaxEpoch = 1<<15 - 1
	// MaxRevision is the highest revision a token can carry: enough for
	// 50,000 writes a second for 178 years.
	MaxRevision = 1<<revisionBits - 1
)

// NewToken joins an epoch and a revision. It panics when either is out of its
// range, because a wrapped token would let a replaced holder write.
func NewToken(epoch uint16, revision int64) Token {
	if epoch > MaxEpoch || revision < 0 || revision > MaxRevision {
		panic(fmt.Sprintf("holdfast: token out of range: epoch %d, revision %d", epoch, revision))
	}
	return Token(uint64(epoch)<<revisionBits | uint64(revision))
}

// Epoch is the number of restores of the store that issued the token, plus one.
func (t Token) Epoch() uint16 { return uint16(t >> revisionBits) }

// Revision is the store's revision at which the token was issued.
func (t Token) Revision() int64 { return int64(t & MaxRevision) }

// String is the token as a decimal number, the form it has in HTTP headers,
// environment variables and SQL.
func (t Token) String() string { return strconv.FormatUint(uint64(t), 10) }

// ParseToken reads the form that String writes.
func ParseToken(s string) (Token, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, &Error{Op: "parse token", Code: CodeInvalid, Outcome: NotApplied, Err: err}
	}
	return Token(n), nil
}

// MarshalText writes the decimal form; it makes tokens strings in JSON.
func (t Token) MarshalText() ([]byte, error) { return strconv.AppendUint(nil, uint64(t), 10), nil }

// UnmarshalText reads the decimal form.
func (t *Token) UnmarshalText(b []byte) error {
	v, err := ParseToken(string(b))
	if err == nil {
		*t = v
	}
	return err
}
