// Package faults shows that nothing is lost: the plugin is killed at every
// step, the kernel, the tools and the disk fail, invocations race, and a model
// predicts the result. Everything runs on the real kernel's rules in separate
// namespaces (see package world).
package faults
