// Package install adds the plugin to a node's network configuration and removes
// it: the binaries, and the entry in a conflist or in a file that libcni reads
// in addition to it.
//
// A configuration file is edited in place: only the bytes of the entry change.
// Every file is replaced by a rename, so that a runtime reads the old one or
// the new one, and a killed installer leaves one of the two. The steps are
// derived from the current files; running it again completes an interrupted
// run, and does nothing if nothing is left to do.
//
// The package does not know rules, records or pods. The caller says which pods
// still hold ports.
package install
