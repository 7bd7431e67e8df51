package backend

import (
	"slices"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// FamilyError is an error that concerns one family.
type FamilyError struct {
	Family hostport.Family
	Err    error
}

// Error begins with the family.
func (e *FamilyError) Error() string { return e.Family.String() + ": " + e.Err.Error() }

// Unwrap returns the error without the family.
func (e *FamilyError) Unwrap() error { return e.Err }

// Concerns reports whether an error, or one of those that it joins, may be about a family:
// it is a FamilyError of that family, or names none. nil concerns no family.
func Concerns(err error, f hostport.Family) bool {
	switch e := err.(type) { //nolint:errorlint // it walks the tree itself: errors.As finds the first FamilyError alone
	case nil:
		return false
	case *FamilyError:
		return e.Family == f
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(e.Unwrap(), func(err error) bool { return Concerns(err, f) })
	case interface{ Unwrap() error }:
		return e.Unwrap() == nil || Concerns(e.Unwrap(), f)
	default:
		return true
	}
}
