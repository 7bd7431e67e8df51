// Package portmap reads what the portmap plugin left on a node: whom it serves,
// from libcni's cache and from its own rules, and which rules have to go for
// whom. It covers portmap v0.7 to v1.9, on iptables (both variants) and on
// nftables.
//
// It decides nothing. Whether a container still runs, and what becomes of it,
// is for the caller to say.
//
// Host ports that CRI-O, Docker or Podman programmed are named, so that an
// operator can be told, and are never touched.
package portmap
