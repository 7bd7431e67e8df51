package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

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
	// Some errors quote container IDs and network names as they came.
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
	r, err := readRequest(os.Getenv, os.Stdin)
	if err != nil {
		if os.Getenv("CNI_COMMAND") == "" { // a person
			_, _ = fmt.Fprintf(p.stderr, "CNI hostport plugin %s\nCNI protocol versions supported: %s\n", p.Build, strings.Join(versions(), ", "))
			return nil
		}
		return err
	}
	return asError(p.dispatch(r))
}

func (p *Plugin) dispatch(r *request) error {
	switch r.verb {
	case "ADD":
		return p.add(r)
	case "DEL":
		return p.del(r)
	case "CHECK":
		return p.check(r)
	case "GC":
		return p.gc(r)
	case "STATUS":
		return p.status(r)
	case "VERSION":
		return p.version()
	default:
		return types.NewError(types.ErrInvalidEnvironmentVariables, "unknown CNI_COMMAND: "+r.verb, "")
	}
}

// version tells the versions of the specification that the plugin speaks.
func (p *Plugin) version() error {
	all := versions()
	err := json.NewEncoder(p.stdout).Encode(map[string]any{"cniVersion": all[len(all)-1], "supportedVersions": all})
	if err != nil {
		return types.NewError(types.ErrIOFailure, "print versions: "+err.Error(), "")
	}
	return nil
}

// onHost reports whether the sandbox is the node's own network namespace.
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
