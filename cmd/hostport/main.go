// Command hostport is the CNI plugin. A container runtime runs it with the
// environment and standard input that the CNI specification describes.
package main

import (
	"os"

	"github.com/hostport-cni/hostport/internal/cni"
	_ "github.com/hostport-cni/hostport/internal/stack"
)

// build is set by the linker (see the Makefile).
var build = "development"

func main() { os.Exit(cni.Main(build)) }
