// Package nftables is the backend that programs attachments as elements of
// nftables maps, in table "inet hostport", over netlink.
//
// The number of rules does not depend on the number of mappings: a new
// connection costs a fixed number of hash lookups, whether the node maps one
// port or 60,000. Every change is one transaction for both families, so a
// packet sees the rules before it or after it and never an intermediate state.
// The usual ADD writes elements only.
//
// Connections that were translated here are distinguished from those of
// kube-proxy or any other program by a connection tracking label, not by a packet
// mark: marks are a shared and crowded space, and a packet that is masqueraded by
// mistake has lost its client's address for good.
//
// The package starts no process and keeps nothing between calls.
package nftables
