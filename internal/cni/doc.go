// Package cni serves the verbs of the CNI specification: standard input and
// environment in, a result or a CNI error out. It is the only package that
// knows the plugin protocol and its error codes. What is done to the node is
// done by package node.
package cni
