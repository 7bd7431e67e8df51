package nftables

import "github.com/hostport-cni/hostport/pkg/hostport"

func conditionChains(a *hostport.Attachment) []chain { return nil }
