// Package kube is the agent's side of the Kubernetes API: it writes events, and
// checks whether the agent's DaemonSet is being deleted. It is optional.
// Nothing that the agent does to a node depends on it.
//
// It uses two kinds of objects and no clientset, so that an agent without
// access to the API does not pay for one.
package kube
