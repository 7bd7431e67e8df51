// Package conntrack removes the connection tracking entries of stale UDP flows.
//
// The kernel decides a UDP flow's destination when its first packet passes, and
// keeps to it while packets keep coming. A client that sent to a host port
// before its mapping was added, or after it was deleted, would never reach the
// pod that has the port now. So the entries of flows to a mapping's port are
// removed when the mapping is added and when it is deleted, and the next packet
// is decided anew. TCP and SCTP need none of this: a connection to nowhere ends
// by itself.
//
// Only flows whose original destination is the node itself are removed. Flows
// to the same port elsewhere, above all the node's and the pods' DNS queries,
// keep their entries. The node's addresses are those of its interfaces, and
// 127.0.0.0/8; prefixes that a route of type local adds to them are not known
// here.
//
// Everything is about the calling thread's network namespace. It needs the
// kernel's module nf_conntrack_netlink and no program.
package conntrack
