// Package charts holds the tests of what a cluster installs: the Helm chart, the
// manifests that are made from it, and the alerts, each read by the tool that it
// is for.
//
// It is a module of its own, so that the types of the API stay out of the
// product's go.mod. helm, kustomize and promtool are built from .ci/helm.mod and
// .ci/promtool.mod.
package charts
