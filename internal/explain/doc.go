// Package explain answers why a packet to a host port arrives at its pod, or
// does not.
//
// Collect reads what decides about the packet into a Snapshot: addresses,
// routes, kernel parameters, the rules of iptables (both variants) and of
// nf_tables, sockets of the node and of the pods, and the fill of the
// connection tracking table. Explain is a pure function of a Snapshot, the
// recorded attachments and a Question: it walks the first packet of a connection
// through the hooks in the kernel's order, and the answer back. Elements of sets are
// read, and ipsets are asked, when a rule needs them. Where it cannot be known whether
// a rule matches, as with a rate limit, the answer is uncertain only if that rule would
// change it.
//
// It does not follow eBPF programs, rules of the bridge, arp and netdev families,
// and rules inside the pod's network namespace. A Report names the eBPF programs.
//
// Only Probe and Trace change anything on the node. Both remove what they added, also
// when they are interrupted.
package explain
