package cni

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/internal/sandbox"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Plugin is one invocation: a process serves one verb.
type Plugin struct {
	// Build is the plugin's own version, for people.
	Build  string
	stdout io.Writer
	stderr io.Writer
}

// Main serves the verb that the environment names and returns the exit status:
// 0, or 1 with a CNI error object on standard output.
func Main(build string) int {
	p := &Plugin{Build: build, stdout: os.Stdout, stderr: os.Stderr}
	err := p.serve()
	if err == nil {
		return 0
	}
	// skel's own errors quote container IDs and network names as they came.
	err.Msg, err.Details = printable(err.Msg), printable(err.Details)
	if perr := err.Print(); perr != nil {
		fmt.Fprintln(os.Stderr, perr)
	}
	return 1
}

func (p *Plugin) serve() *types.Error {
	if onHost() {
		return asError(p.serveHost())
	}
	// skel need not look again: it would start a thread for it, at the end of
	// every ADD and DEL.
	if err := os.Setenv("CNI_NETNS_OVERRIDE", "TRUE"); err != nil {
		return types.NewError(types.ErrInternal, "set CNI_NETNS_OVERRIDE: "+err.Error(), "")
	}
	return skel.PluginMainFuncsWithError(skel.CNIFuncs{
		Add:    p.add,
		Del:    p.del,
		Check:  p.check,
		GC:     p.gc,
		Status: p.status,
	}, version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"), "CNI hostport plugin "+p.Build)
}

// onHost reports whether the sandbox is the node's own network namespace. It
// is asked before skel is, because skel refuses such a sandbox (error 8) after
// it has called ADD.
func onHost() bool {
	switch os.Getenv("CNI_COMMAND") {
	case "ADD", "DEL", "CHECK":
		path := os.Getenv("CNI_NETNS")
		if path == "" {
			return false
		}
		host, err := sandbox.IsHost(path)
		return err == nil && host
	default:
		return false
	}
}

// serveHost serves a pod that uses the node's own network: it has its ports
// already, nothing is mapped, prevResult is handed on.
func (p *Plugin) serveHost() error {
	data, err := io.ReadAll(os.Stdin)
	if err != nil {
		return types.NewError(types.ErrIOFailure, "read standard input: "+err.Error(), "")
	}
	c, err := netconf.Parse(data)
	switch os.Getenv("CNI_COMMAND") {
	case "ADD":
		if err != nil {
			return err
		}
		return p.pass(c)
	case "DEL":
		// A path like /proc/PID/ns/net may lead to a process of the node by
		// now, if the PID was used again: the record knows whose it was.
		return p.remove(context.Background(), c, hostport.Key{
			ContainerID: os.Getenv("CNI_CONTAINERID"),
			IfName:      os.Getenv("CNI_IFNAME"),
		})
	default:
		return nil
	}
}

// pass prints prevResult as it came.
func (p *Plugin) pass(c *netconf.Config) error {
	if c.PrevResult == nil {
		return &netconf.FieldError{Field: "prevResult", Err: errNoPrevResult}
	}
	if _, err := fmt.Fprintf(p.stdout, "%s\n", c.PrevResult); err != nil {
		return types.NewError(types.ErrIOFailure, "print result: "+err.Error(), "")
	}
	return nil
}
