package cni

import (
	"errors"
	"unicode"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/internal/node"
)

// Error codes of our own; the specification leaves 100 and up to plugins.
// docs/errors.md explains them to operators.
const (
	// CodeKernel: the node could not be changed or read.
	CodeKernel uint = 100
	// CodePortHeld: a living pod holds the host port.
	CodePortHeld uint = 101
	// CodeListener: a process of the node listens on the host port.
	CodeListener uint = 102
	// CodeDiffers: CHECK found the node other than it should be.
	CodeDiffers uint = 103
)

var errNoPrevResult = errors.New("is required: the plugin must be chained after the one that makes the interface")

// asError gives an error its CNI code. The message is the short part, the
// details are what an operator looks at next.
func asError(err error) *types.Error {
	if err == nil {
		return nil
	}
	var (
		cniError  *types.Error
		field     *netconf.FieldError
		held      *node.HeldError
		listening *node.ListeningError
	)
	switch {
	case errors.As(err, &cniError):
		return cniError
	case errors.As(err, &field):
		return types.NewError(types.ErrInvalidNetworkConfig, "invalid network configuration: "+clean(err), "")
	case errors.As(err, &held):
		return types.NewError(CodePortHeld, clean(held), "")
	case errors.As(err, &listening):
		return types.NewError(CodeListener, clean(listening), "")
	case node.Busy(err):
		return types.NewError(types.ErrTryAgainLater, clean(err), "another process is changing this node's rules; try again later")
	default:
		return types.NewError(CodeKernel, clean(err), "")
	}
}

// clean keeps an error to one line of printable text: it ends in logs and on
// terminals, and may quote what came from outside.
func clean(err error) string { return printable(err.Error()) }

// printable replaces what a terminal would act on: control characters, and
// those that turn the direction of writing.
func printable(s string) string {
	out := make([]rune, 0, len(s))
	for _, r := range s {
		switch {
		case r == '\n':
			out = append(out, ';', ' ')
		case !unicode.IsPrint(r):
			out = append(out, '?')
		default:
			out = append(out, r)
		}
	}
	return string(out)
}
