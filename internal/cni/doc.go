// Package cni serves the verbs of the CNI specification: standard input and
// environment in, a result or a CNI error out. It is the only package that
// knows the plugin protocol and its error codes. Package node makes all changes
// to the node.
package cni
