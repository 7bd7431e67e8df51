package sandbox

import "errors"

// View identifies the namespaces from which a process looks at the node's
// processes and mounts, by their inodes.
type View struct{ PID, Mount uint64 }

// OwnView returns the view of the calling thread.
func OwnView() (View, error) {
	pid, err := stat("/proc/thread-self/ns/pid")
	mount, merr := stat("/proc/thread-self/ns/mnt")
	return View{PID: pid.Inode, Mount: mount.Inode}, errors.Join(err, merr)
}

// Sees reports whether a process with view v sees every sandbox that the
// container runtime sees: it shares the runtime's PID namespace, and the mount
// namespace of the runtime or of PID 1. It returns false if runtime is zero, that
// is, if the runtime's view is unknown.
func (v View) Sees(runtime View) bool {
	init, err := stat("/proc/1/ns/mnt")
	return runtime != (View{}) && v.PID == runtime.PID && (v.Mount == runtime.Mount || err == nil && v.Mount == init.Inode)
}
