//go:build nextlayout

package iptables

// Different chains, and a different jump to the first, for tests of upgrades.
var rangeBits = [...]int{8, 4}

const toNode = `-m addrtype --dst-type LOCAL -m comment --comment "next layout"`
