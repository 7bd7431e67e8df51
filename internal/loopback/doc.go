// Package loopback lets 127.0.0.1:hostPort on the node reach a pod: it sets and
// clears route_localnet on the node's interface to the pod.
//
// The kernel routes packets from or to 127.0.0.0/8 only over lo, unless
// net.ipv4.conf.IFNAME.route_localnet is set (Linux 3.6). That setting also
// lets the neighbours on that interface reach services on the node's 127.0.0.1
// (CVE-2020-8558): the backend's guard must be in place before it is set. The
// guard is not in this package.
//
// It covers IPv4 only: the kernel has no such setting for [::1].
package loopback
