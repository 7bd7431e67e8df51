// Package loopback lets 127.0.0.1:hostPort on the node reach a pod: it opens
// and closes route_localnet on the node's interface that leads there.
//
// The kernel routes no packet from or to 127.0.0.0/8 over another interface
// than lo, unless net.ipv4.conf.IFNAME.route_localnet says so (Linux 3.6). That
// setting also lets the neighbours on that interface reach what listens on the
// node's 127.0.0.1 (CVE-2020-8558): the backend's packet guard must be in place
// before it is opened. The guard is not in this package.
//
// It is about IPv4 only: the kernel has no such setting for [::1].
package loopback
