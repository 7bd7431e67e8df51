// Command hostport is the CNI plugin. A container runtime runs it with the
// environment and standard input that the CNI specification describes.
//
// How many CPUs its control group may use does not matter to a process of two
// milliseconds. The runtime would read files of /proc and /sys to find out, and
// start a goroutine that does so again.
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
