package cni

import (
	"cmp"
	"errors"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/internal/node"
)

// Error codes of our own; the specification leaves 100 and up to plugins.
// docs/errors.md explains them to operators.
const (
	codeKernel   uint = 100 // the node could not be changed or read
	codePortHeld uint = 101 // a living pod holds the host port
	codeListener uint = 102 // a process of the node listens on the host port
	codeDiffers  uint = 103 // CHECK found a difference between the node and the record
)

// coded returns err as a *types.Error with its CNI code, and nil for nil.
func coded(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*types.Error](err); ok {
		return e
	}
	code, details := codeKernel, ""
	conflict, conflicts := errors.AsType[*node.ConflictError](err)
	switch {
	case errors.As(err, new(*netconf.FieldError)):
		return invalid(err)
	case conflicts && conflict.Kind == node.KindListener:
		code = codeListener
	case conflicts:
		code = codePortHeld
	case errors.As(err, new(*node.DiffersError)):
		code = codeDiffers
	case node.Busy(err):
		code, details = types.ErrTryAgainLater, "another process is changing this node's rules; try again later"
	}
	return types.NewError(code, err.Error(), details)
}

// result returns the word by which a call's outcome is counted.
func result(err error) string {
	e, failed := errors.AsType[*types.Error](coded(err))
	if !failed {
		return "success"
	}
	words := map[uint]string{
		codePortHeld: "refused", codeListener: "refused", codeDiffers: "differs",
		types.ErrInvalidNetworkConfig: "invalid", types.ErrTryAgainLater: "busy",
	}
	return cmp.Or(words[e.Code], "failed")
}

// invalid returns the CNI error for a wrong configuration. err names the key.
func invalid(err error) error {
	return types.NewError(types.ErrInvalidNetworkConfig, "invalid network configuration: "+err.Error(), "")
}
