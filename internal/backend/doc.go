// Package backend is the contract between internal/node, which decides who
// holds which host port, and the backends, which write the rules: iptables and
// nftables. It holds the types of the contract, the names of the backends, and
// what both need.
// It changes nothing on the node by itself.
package backend
