// Package charts tests the files that a cluster installs: the Helm chart, the
// manifests generated from it, and the alerts, each with its own tool.
//
// It is a separate module, so that the types of the API stay out of the
// product's go.mod. helm, kustomize and promtool are built from .ci/helm.mod
// and .ci/promtool.mod.
package charts
