// Package backend is the contract between internal/node, which decides which
// attachment holds which host port, and the backends, which write the rules:
// iptables and nftables. It holds the types of the contract, the names of the
// backends, and what both need. By itself it changes nothing on the node.
package backend
