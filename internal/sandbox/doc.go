// Package sandbox identifies network namespaces, distinguishes the node's own
// from others, and determines whether one still exists.
//
// It reads /proc and stats files. It enters no namespace, changes nothing and
// uses no netlink, because each pod start would pay for that.
//
// It sees only what the calling thread sees. A container runtime may mount
// sandboxes in a mount namespace of its own. A plugin started by the runtime
// shares it; a tool started from a login shell or in a container may not, and in
// a PID namespace of its own it does not see the pods' processes either.
// View.Sees reports whether a process may declare a sandbox dead.
package sandbox
