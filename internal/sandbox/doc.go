// Package sandbox answers three questions about a network namespace: which one
// is it, is it the node's own, and does it still exist.
//
// It reads /proc and stats files. It enters no namespace, changes nothing and
// speaks no netlink, because every pod start pays for it.
//
// What it sees is what the calling thread sees. A runtime may mount sandboxes
// in a mount namespace of its own: a plugin that the runtime starts shares it,
// a tool started from a login shell or a container may not, and there a live
// sandbox's path is missing or is the empty file beneath the mount. Whoever
// acts on Alive's answer must share the runtime's mount namespace, or have
// mount propagation from it, and see the node's processes in /proc.
package sandbox
