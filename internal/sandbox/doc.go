// Package sandbox identifies network namespaces, tells the node's own from
// others, and finds out whether one still exists.
//
// It reads /proc and stats files. It enters no namespace, changes nothing and
// uses no netlink, because every pod start pays for it.
//
// It sees what the calling thread sees. A container runtime may mount sandboxes
// in a mount namespace of its own. A plugin that the runtime starts shares it;
// a tool that is started from a login shell or in a container may not, and in a
// PID namespace of its own it does not see the pods' processes either. View tells
// whether a process may declare a sandbox dead.
package sandbox
