// Package listener finds sockets of the node's own processes that listen where
// a port mapping is about to lead traffic away.
//
// A mapping takes such a process's traffic without a word, which some operators
// want refused. The package is used only where the configuration asks for it.
//
// It sees the calling thread's network namespace, TCP and UDP. It does not see
// SCTP: sock_diag answers for SCTP with associations in a form of its own, from
// a module that is seldom loaded, so an SCTP mapping never has a listener here.
package listener
