package nftables

import (
	"errors"
	"fmt"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Validate refuses what only the iptables backend has, and conditions of other
// forms than this backend translates: the error quotes the text and names the
// key. The mark bit is not looked at: it has a default, and is not used.
func (b *Backend) Validate(o hostport.Options) error {
	if o.ExternalSetMarkChain != "" {
		return errors.New("externalSetMarkChain: the nftables backend masquerades without marks; remove the key, or set backend to iptables")
	}
	return validateConditions(o)
}

func validateConditions(o hostport.Options) error {
	for _, f := range hostport.Families() {
		if _, err := parseConditions(o.Conditions(f), f); err != nil {
			return fmt.Errorf("conditionsV%d: %w", f, err)
		}
	}
	return nil
}
