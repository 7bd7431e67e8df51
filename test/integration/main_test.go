// Package integration runs the plugin as a runtime does, on every backend and
// in both families, and sends packets.
package integration

import (
	"os"
	"testing"

	"github.com/hostport-cni/hostport/test/world"
)

func TestMain(m *testing.M) { os.Exit(world.Main(m)) }
