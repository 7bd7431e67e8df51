package iptables

import (
	"fmt"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// The longest chain name (XT_EXTENSION_MAXNAMELEN, less the terminator).
const maxChain = 28

// Validate refuses options that iptables could not carry out, or that would
// be more than a match in a rule. The error names the configuration key.
func (b *Backend) Validate(o hostport.Options) error {
	if o.MarkMasqBit < 0 || o.MarkMasqBit > 31 {
		return fmt.Errorf("markMasqBit: %d is not a bit of a packet mark: want 0 to 31", o.MarkMasqBit)
	}
	if o.ExternalSetMarkChain != "" {
		if err := validateChain(o.ExternalSetMarkChain); err != nil {
			return fmt.Errorf("externalSetMarkChain: %w", err)
		}
	}
	for _, f := range hostport.Families() {
		if err := validateConditions(o.Conditions(f)); err != nil {
			return fmt.Errorf("conditionsV%d: %w", f, err)
		}
	}
	return nil
}

func validateChain(name string) error {
	switch {
	case len(name) > maxChain:
		return fmt.Errorf("%q is longer than %d characters", name, maxChain)
	case ours(name):
		return fmt.Errorf("%q is the name of a chain of this plugin", name)
	case !plain(name):
		return fmt.Errorf("%q has characters that a chain name cannot have", name)
	}
	switch name {
	case "ACCEPT", "DROP", "RETURN", "QUEUE", "DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP", "MARK", "CONNMARK", "LOG", "NFLOG", "TRACE",
		preroutingChain, "INPUT", "FORWARD", outputChain, postroutingChain:
		return fmt.Errorf("%q is built in: want a chain that sets a mark", name)
	}
	return nil
}

// plainRune reports whether a character is never syntax to the tools.
func plainRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.' || r == ':'
}
