// Package conntrack removes the connection tracking entries of stale UDP flows.
//
// The kernel determines a UDP flow's destination at its first packet, and keeps
// it while packets keep arriving. A client that sent to a host port before its
// mapping was added, or after it was deleted, would never reach the pod that
// has the port now. So the entries of flows to a mapping's port are removed
// when the mapping is added and when it is deleted, and the next packet
// determines the destination again. TCP and SCTP do not need this: a connection
// without a peer ends by itself.
//
// Only flows whose original destination is the node itself are removed. Flows
// to the same port elsewhere, above all the node's and the pods' DNS queries,
// keep their entries. The node's addresses are those of its interfaces, and
// 127.0.0.0/8; prefixes that a route of type local adds to them are not
// considered.
//
// The package works on the calling thread's network namespace. It needs the
// kernel's module nf_conntrack_netlink and no external program.
package conntrack
