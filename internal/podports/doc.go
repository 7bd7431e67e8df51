// Package podports is the protocol by which the plugin asks the agent for the
// host ports of a pod, for runtimes that send none to CNI plugins (CRI-O).
//
// The plugin sends one request per connection on a Unix socket next to the
// state: the pod that CNI_ARGS names. The agent answers with port mappings, or
// with the reason why it cannot. Each side gets its peer's user from the
// kernel, and accepts only root and its own user; the socket's directory is
// closed to others. Message sizes and times are bounded.
//
// The package uses only the standard library, because the plugin links it.
package podports
