// Package hostport is the domain of the plugin: port mappings, the attachments
// that own them, and the rules by which two owners conflict.
//
// It does no I/O and needs the standard library only, so that every other package
// (configuration, state, the backends, the operator's tool) can share its words.
// It knows nothing of CNI's wire format, of iptables or of nftables.
package hostport
