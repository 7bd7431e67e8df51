// Package state keeps the attachments of this node on disk, and the lock that
// lets one process change the node at a time.
//
// The truth is here and the kernel is derived from it. Everything that a verb
// asks on the steady path is an index lookup: by attachment, by protocol and
// port, by pod address, by shared kernel object. What a change is about to do
// is written down first (Intent), so that a crash anywhere can be settled by
// the next process.
//
// The records are void after a reboot, because the kernel is empty then. So
// the file is never synced: it has to survive a dying process, not a dying
// machine.
package state
