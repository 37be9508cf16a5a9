package auth

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"holdfast.dev"
)

// Role is what a principal may do. A higher one may do what a lower one may.
type Role uint8

// The roles.
const (
	None Role = iota
	Read
	Write
	Admin
)

// String is the role as it stands in files and certificates.
func (r Role) String() string {
	switch r {
	case Read:
		return "read"
	case Write:
		return "write"
	case Admin:
		return "admin"
	case None:
	}
	return "none"
}

// ParseRole reads what String writes, except none.
func ParseRole(s string) (Role, bool) {
	for r := Read; r <= Admin; r++ {
		if r.String() == s {
			return r, true
		}
	}
	return None, false
}

// Anonymous is the name of everybody where nobody has to say who he is.
const Anonymous = "anonymous"

// Principal is who calls.
type Principal struct {
	Name     string
	Role     Role
	Prefixes []string // that bound what it may name; none: no bound
}

// May is nil when p has the role and every name lies within its prefixes, and
// holdfast.ErrDenied otherwise.
func (p Principal) May(role Role, names ...string) error {
	if p.Role < role {
		return p.denied(fmt.Errorf("it needs the role %v, and %s has %v", role, p.Name, p.Role))
	}
	for _, name := range names {
		if !p.covers(name) {
			return p.denied(fmt.Errorf("%s is outside the prefixes of %s", strconv.Quote(name), p.Name))
		}
	}
	return nil
}

// covers says whether a name, or all names with that prefix, are within p's.
func (p Principal) covers(name string) bool {
	return len(p.Prefixes) == 0 || slices.ContainsFunc(p.Prefixes, func(prefix string) bool {
		return strings.HasPrefix(name, prefix)
	})
}

// Sees says whether p may be shown a name.
func (p Principal) Sees(name string) bool { return p.Role >= Read && p.covers(name) }

func (p Principal) denied(why error) error {
	return &holdfast.Error{Code: holdfast.CodeDenied, Outcome: holdfast.NotApplied, Err: why}
}
