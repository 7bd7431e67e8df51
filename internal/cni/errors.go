package cni

import (
	"errors"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/internal/node"
)

// Error codes of our own; the specification leaves 100 and up to plugins.
// docs/errors.md explains them to operators.
const (
	// codeKernel: the node could not be changed or read.
	codeKernel uint = 100
	// codePortHeld: a living pod holds the host port.
	codePortHeld uint = 101
	// codeListener: a process of the node listens on the host port.
	codeListener uint = 102
	// codeDiffers: CHECK found a difference between the node and the record.
	codeDiffers uint = 103
)

// coded returns err as a *types.Error with its CNI code, and nil for nil.
func coded(err error) error {
	if err == nil {
		return nil
	}
	var (
		cniError  *types.Error
		field     *netconf.FieldError
		conflict  *node.ConflictError
		listening *node.ListeningError
		differs   *node.DiffersError
	)
	switch {
	case errors.As(err, &cniError):
		return cniError
	case errors.As(err, &field):
		return invalid(err)
	case errors.As(err, &conflict):
		return types.NewError(codePortHeld, conflict.Error(), "")
	case errors.As(err, &listening):
		return types.NewError(codeListener, listening.Error(), "")
	case errors.As(err, &differs):
		return types.NewError(codeDiffers, err.Error(), "")
	case node.Busy(err):
		return types.NewError(types.ErrTryAgainLater, err.Error(), "another process is changing this node's rules; try again later")
	default:
		return types.NewError(codeKernel, err.Error(), "")
	}
}

// result returns the word for what became of a call.
func result(err error) string {
	e, failed := errors.AsType[*types.Error](coded(err))
	if !failed {
		return "success"
	}
	switch e.Code {
	case codePortHeld, codeListener:
		return "refused"
	case codeDiffers:
		return "differs"
	case types.ErrInvalidNetworkConfig:
		return "invalid"
	case types.ErrTryAgainLater:
		return "busy"
	default:
		return "failed"
	}
}

// invalid returns the error for a configuration that is wrong. err names the
// key.
func invalid(err error) error {
	return types.NewError(types.ErrInvalidNetworkConfig, "invalid network configuration: "+err.Error(), "")
}

// oneLine keeps text to one printable line of a length that logs and events can
// hold.
func oneLine(s string) string { return backend.OneLine(s, 8<<10) }
