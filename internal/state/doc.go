// Package state keeps the attachments of this node on disk, and the lock that
// allows one process at a time to change the node.
//
// Records are facts: what the runtime said and what the node found. The rules
// in the kernel are derived from them. What ADD and DEL need to know of ports,
// pods and interfaces is an index lookup: by attachment, by protocol and port, by
// pod address, by loopback interface. A change is marked as pending before the
// kernel is touched, so that the next process can recover it if this one dies.
//
// A reboot empties the kernel, so the records are void. The file is therefore
// never synced: it has to survive a killed process, but not a power failure.
//
// A damaged file is moved aside and replaced by an empty one, unless a guest finds it. bbolt has checksums
// only for its meta pages: any other damaged page may make it panic, recurse until the
// stack is full, or loop. Panics are recovered, and a process that loops ends itself.
// Processes that die while they read or write the file are counted in the lock file: the
// next process that may write checks the whole file, and after the third death in a row
// the file is moved aside unread.
package state
