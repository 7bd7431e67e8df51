// Package iptables is the backend that maps host ports with iptables, in
// either of its variants (nf_tables and legacy): whichever the PATH leads to.
//
// A change of one attachment is one iptables-restore --noflush process a
// family and no read, so it either happens whole or not at all. What that
// process takes for granted, the base that earlier attachments made, it guards
// with -C lines; when a guard fails, everything of ours is read once and
// rewritten from the attachments (see Backend.Sync), which heals what another
// program flushed.
//
// The text that is fed to iptables-restore is made by pure functions, and is
// written as iptables-save would print it, so that what is in the kernel can
// be compared as text.
//
// The package does not decide who owns a port, keeps no state of its own and
// sets no sysctl.
package iptables
