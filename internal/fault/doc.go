// Package fault marks the steps between which the plugin may die. In the
// shipped binary a point is an empty function; built with the tag
// "faultpoints", the environment variable HOSTPORT_FAULT=POINT kills the
// process there, so that tests can show what each crash leaves behind.
package fault

// Points of a change, in the order in which they are passed, and of a resync.
const (
	BeforeRecord = "before-record"
	AfterRecord  = "after-record"
	AfterKernel  = "after-kernel"
	AfterSysctl  = "after-sysctl"
	AfterFlows   = "after-flows"
	AfterDone    = "after-done" // pending is cleared

	AfterAdopt   = "after-adopt"   // unknown owners are on record
	AfterRewrite = "after-rewrite" // the rules are rewritten
)

// Points lists the points of a change.
func Points() []string {
	return []string{BeforeRecord, AfterRecord, AfterKernel, AfterSysctl, AfterFlows, AfterDone}
}
