// Package agent looks after the host ports of one node for as long as it runs:
// it installs the plugin, adopts what portmap serves, mends rules that other
// programs change, puts the plugin's entry back when somebody rewrites the
// network's configuration, removes owners that are dead for long, and shows all
// of that as metrics.
//
// It owns nothing. What it does to a node goes through internal/install and
// internal/node, as the operator's tool does it, and the plugin never needs it:
// an agent that stops changes nothing.
//
// It reads the kernel when there is a reason to. nf_tables tells which table and
// chain a commit changed, and who made it; commits of the plugin are passed over.
// iptables-legacy tells nothing, so its tables are hashed every few seconds.
package agent
