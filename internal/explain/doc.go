// Package explain answers why a packet to a host port reaches its pod, or does
// not.
//
// Collect reads everything that decides the packet's fate into a Snapshot: addresses,
// routes, kernel parameters, the rules of iptables (both variants) and of nf_tables,
// sockets of the node and of the pods, and the fill level of the connection tracking
// table. Explain is a pure function of a Snapshot, the recorded attachments and a
// Question: it walks the first packet of a connection through the hooks in the
// kernel's order, and the reply back. Elements of sets are read, and ipsets are
// queried, when a rule needs them. If it is uncertain whether a rule matches, as with
// a rate limit, the verdict is uncertain only if that rule would change it.
//
// It does not follow eBPF programs, rules of the bridge, arp and netdev families,
// and rules inside the pod's network namespace. A Report names the eBPF programs.
//
// Only Probe and Trace change anything on the node. Both remove what they
// added, even when interrupted.
package explain
