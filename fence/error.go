package fence

import (
	"errors"
	"fmt"

	"holdfast.dev"
)

// A StaleError is the cause inside a *holdfast.Error with CodeFenced.
type StaleError struct {
	Token   holdfast.Token // the one that was refused
	Highest holdfast.Token // the highest that the resource has seen
}

// Error names both tokens.
func (e *StaleError) Error() string {
	return fmt.Sprintf("token %s is below %s", e.Token, e.Highest)
}

// refuse wraps a cause for a resource. Nothing has happened whatever the cause
// is: an effect needs a guard that said yes.
func refuse(resource string, code holdfast.Code, cause error) error {
	return &holdfast.Error{Op: "check", Key: "fence " + resource, Code: code, Outcome: holdfast.NotApplied, Err: cause}
}

var (
	errNoToken    = errors.New("no token")
	errTokenRange = errors.New("token out of range")
	errNoResource = errors.New("no resource")
)

// validate refuses what no lock ever gave out.
func validate(resource string, token holdfast.Token) error {
	var faults []error
	if resource == "" {
		faults = append(faults, errNoResource)
	}
	switch {
	case token == 0:
		faults = append(faults, errNoToken)
	case token.Epoch() > holdfast.MaxEpoch:
		faults = append(faults, errTokenRange)
	}
	if len(faults) == 0 {
		return nil
	}
	return refuse(resource, holdfast.CodeInvalid, errors.Join(faults...))
}
