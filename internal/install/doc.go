// Package install puts the plugin into a node's network configuration and takes
// it out again: the binaries, and the entry in a conflist or in a file that
// libcni reads beside it.
//
// A configuration file is edited in place: of its bytes only those of the entry
// change. Every file is replaced by a rename, so that a runtime reads the old one
// or the new one, and an installer that is killed leaves one of the two. What is
// to be done is worked out from what is there; running it again finishes what
// was begun, and does nothing if nothing is left to do.
//
// The package does not know rules, records or pods. The caller says who still
// holds ports.
package install
