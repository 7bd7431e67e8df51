// Package node is the one place where a node changes: lock, state, backend,
// conntrack and sysctl, in that order. Verbs of the plugin and commands of the
// operator's tool call it and nothing below it.
package node
