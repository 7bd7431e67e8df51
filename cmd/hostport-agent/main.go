// Command hostport-agent maintains the host ports of the node it runs on: it
// installs the hostport plugin, repairs rules that other programs change, keeps
// the plugin in the network's configuration, removes dead owners, and serves
// metrics and health. docs/agent.md describes it for operators.
//
// The plugin does not need it. An agent that stops changes nothing on the node,
// unless it is told to remove the plugin (--cleanup).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/agent"
	"github.com/hostport-cni/hostport/internal/host"
	"github.com/hostport-cni/hostport/internal/install"
)

// build is set by the linker (see the Makefile).
var build = "development"

func main() { os.Exit(run(os.Args, os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	s, err := parse(args[1:], stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "hostport-agent:", err)
		return 2
	case s.version:
		fmt.Fprintf(stdout, "hostport-agent %s (%s, %s/%s)\n", build, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return 0
	}
	log := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: s.level}))
	if err := look(s, args, log); err != nil {
		log.Error("the agent ends", "reason", err)
		return 1
	}
	return 0
}

// look runs the agent in the host's root until it is told to stop.
func look(s *settings, args []string, log *slog.Logger) error {
	home, err := host.Enter(s.hostRoot, args)
	if err != nil {
		return fmt.Errorf("enter the host's mount namespace at %s: %w", s.hostRoot, err)
	}
	o, err := s.options(home, log)
	if err != nil {
		return err
	}
	if os.Getenv("PATH") == "" {
		// An image without a shell may set no PATH, which is needed to find iptables.
		if err := os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"); err != nil {
			return err
		}
	}
	if os.Getenv("GOGC") == "" {
		// There is little garbage, and memory on a node is scarce.
		debug.SetGCPercent(50)
	}
	if os.Getenv("GOMAXPROCS") == "" {
		// On a node with many cores the Go runtime would use memory for each.
		runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	k, err := s.kubernetes(ctx, home, log)
	if err != nil {
		return err
	}
	if k.events != nil {
		o.Events = k.events
	}
	if k.pods != nil {
		o.Pods = k.pods
	}
	a := agent.New(o)
	if err := a.Run(ctx); err != nil {
		return err
	}
	if !s.cleanup || !k.leaving(log) {
		return nil
	}
	stop() // a second signal terminates at once
	err = a.Cleanup(context.Background(), s.cleanupTimeout)
	if held, ok := errors.AsType[*install.HeldError](err); ok {
		log.Warn("pods hold host ports: rules, state and programs stay until `hostportctl uninstall` is run", "holders", held.Error())
		return nil
	}
	return err
}
