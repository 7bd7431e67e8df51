// Package node is the only place where records and rules change. It combines the
// records of which attachment holds which host port (internal/state), the
// backends that write the rules, connection tracking, the sysctl that lets
// 127.0.0.1 reach pods, and the liveness of sandboxes.
//
// A change is planned from the records alone (plan), recorded, and then executed.
// Every failure, at any step and for any reason, ends in one place: resync makes
// the kernel match the records again.
package node
