// Package explain answers why a packet to a host port arrives at its pod, or
// does not.
//
// Collect reads what decides about the packet into a Snapshot: addresses,
// routes, kernel parameters, the rules of iptables (both variants) and of
// nf_tables, sockets of the node and of the pods, and the fill of the
// connection tracking table. Explain is a pure function of a Snapshot, the
// recorded attachments and a Question: it walks the first packet of a connection
// through the hooks in the kernel's order, and the answer back. Only elements of
// sets, of nf_tables and of ipset, are asked for on the way. What the rules depend
// on and nobody tells, such as rate limits, makes the answer uncertain only if it
// would change it.
//
// It does not follow eBPF programs, rules of the bridge, arp and netdev families,
// and rules inside the pod's network namespace; a Report says where one of them may
// matter.
//
// Nothing is changed on the node, except by Probe and Trace: both remove what
// they add also when they are interrupted.
package explain
