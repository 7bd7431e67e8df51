// Package conntrack removes the connection tracking entries of stale UDP flows.
//
// A UDP flow's destination is decided when its first packet passes, and holds
// while packets keep coming. A client that sent to a host port before its
// mapping came, or after it went, would never reach the pod that has it now. So
// the flows to a mapping's port are forgotten when the mapping comes and when it
// goes, and their next packet is decided anew. TCP and SCTP need none of this: a
// connection to nowhere ends by itself.
//
// Only flows whose original destination is the node itself are removed. Flows
// to the same port elsewhere, above all the node's and the pods' DNS queries,
// keep their entries. The node's addresses are those of its interfaces, and
// 127.0.0.0/8; prefixes that a route of type local adds to them are not known
// here.
//
// Everything is about the calling thread's network namespace, and nothing but
// the netlink protocol of the kernel's module nf_conntrack_netlink is needed.
package conntrack
