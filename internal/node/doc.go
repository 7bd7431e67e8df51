// Package node is the one place where records and rules change. It puts together
// the record of who holds which host port (internal/state), the backends that
// write the rules, connection tracking, the setting that lets 127.0.0.1 reach
// pods, and the look at sandboxes.
//
// A change is planned from the records alone (plan), written down, and then
// executed. Whatever goes wrong, at any step and for any reason, ends in one
// place: resync makes the kernel follow the records again.
package node
