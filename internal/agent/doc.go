// Package agent maintains the host ports of one node while it runs: it installs
// the plugin, adopts the pods that portmap serves, repairs rules that other
// programs change, restores the plugin's entry when another program rewrites
// the network's configuration, removes dead owners after a timeout, and shows
// all of that as metrics.
//
// It owns nothing. It changes the node only through internal/install and
// internal/node, like the operator's tool, and the plugin never needs it: an
// agent that stops changes nothing.
//
// It reads the kernel only when there is a reason to. nf_tables reports which
// table and chain a commit changed, and which process made it; the plugin's own
// commits are ignored. iptables-legacy reports nothing, so its tables are
// hashed every few seconds.
package agent
