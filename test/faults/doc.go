// Package faults shows that nothing is lost: the plugin is killed at every
// step, the kernel, the tools and the disk refuse, invocations race, and a
// model says what must be left. Everything runs on real kernels' rules in
// namespaces of its own (see package world).
package faults
