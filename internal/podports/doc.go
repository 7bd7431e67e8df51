// Package podports is the conversation between the plugin and the agent about the
// host ports of a pod, for runtimes that send none to CNI plugins (CRI-O).
//
// The plugin asks on a Unix socket beside the state, one question a connection:
// the pod that CNI_ARGS names. The agent answers with port mappings, or with a
// reason why it cannot. Each side asks the kernel who the other one is, and
// believes root and its own user alone; the socket's directory is closed to
// others. What is read is bounded, and so is the time.
//
// The package needs the standard library only, because the plugin links it.
package podports
