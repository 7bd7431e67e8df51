// Package iptables is the backend that maps host ports with iptables, in
// whichever of its variants (nf_tables and legacy) the PATH leads to.
//
// A change is one iptables-restore --noflush process for each family, without a read.
// Each table changes completely or not at all. The change fails in the kernel, as drift,
// unless the last of the empty chains that mark its history is the fingerprint of the
// attachments that have rules, and the jumps that it depends on are in place (-C): other
// programs may flush chains, and firewall services may restore older rulesets.
//
// The text for iptables-restore is made by pure functions, and is written as
// iptables-save would print it, so that the kernel's rules can be compared as
// text.
package iptables
