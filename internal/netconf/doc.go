// Package netconf reads the network configuration that a runtime hands to the
// plugin: bytes in, typed and validated out. It touches nothing on the node.
//
// The keys are those of the portmap plugin, with the same meaning, and a few
// of our own; docs/configuration.md lists them. Keys are matched without
// regard to case, because containerd writes HostPort where the CNI conventions
// say hostPort.
package netconf
