// Command hostport is the CNI plugin. A container runtime runs it with the
// environment and standard input that the CNI specification describes.
//
// A process that runs for two milliseconds does not need to know how many CPUs
// its control group may use. To find out, the Go runtime would read files in
// /proc and /sys, and start a goroutine that does so again.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"os"

	"github.com/hostport-cni/hostport/internal/cni"
)

// build is set by the linker (see the Makefile).
var build = "development"

func main() { os.Exit(cni.Main(build)) }
