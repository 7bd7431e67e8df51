package nftables

import "github.com/hostport-cni/hostport/pkg/hostport"

// Validate refuses what only the iptables backend has, and conditions that
// cannot be translated.
func (b *Backend) Validate(o hostport.Options) error { return nil }
