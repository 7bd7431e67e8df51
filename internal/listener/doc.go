// Package listener finds sockets of the node's own processes that listen on the
// host port of a new mapping.
//
// A mapping silently takes such a process's traffic, which some operators want
// refused. The package is used only if the configuration asks for it.
//
// It covers TCP and UDP in the calling thread's network namespace. It does not
// cover SCTP: for SCTP, sock_diag returns associations in a different format,
// from a module that is seldom loaded, so an SCTP mapping never has a listener
// here.
package listener
