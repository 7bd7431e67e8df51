// Package portmap reads what the portmap plugin left on a node: the attachments
// that it serves, from libcni's cache and from its rules, and the rules to
// remove for each. It covers portmap v0.7 to v1.9, on iptables (both variants)
// and on nftables.
//
// It decides nothing. The caller determines whether a container still runs, and
// what happens to it.
//
// Host ports that CRI-O, Docker or Podman programmed are reported, and never
// touched.
package portmap
