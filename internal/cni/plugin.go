package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/internal/node"
	"github.com/hostport-cni/hostport/internal/sandbox"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// plugin is one invocation: a process serves one verb.
type plugin struct {
	stdout, stderr io.Writer
	// version is that of the specification that is spoken: the newest until
	// the configuration names one that is supported.
	version string
}

// Main serves the verb that the environment names and returns the exit status:
// 0, or 1 with a CNI error object on standard output. build is the version of
// the plugin itself, for people who run it without a verb.
func Main(build string) int {
	versions := netconf.Versions()
	p := &plugin{stdout: os.Stdout, stderr: os.Stderr, version: versions[len(versions)-1]}
	// skel refuses a sandbox that is the node's own network namespace. Such pods
	// are served here: they have their ports already.
	if err := os.Setenv("CNI_NETNS_OVERRIDE", "1"); err != nil {
		return p.fail(types.NewError(types.ErrInternal, err.Error(), ""))
	}
	err := skel.PluginMainFuncsWithError(skel.CNIFuncs{
		Add:    p.verb("ADD", add),
		Del:    p.verb("DEL", del),
		Check:  p.verb("CHECK", check),
		GC:     p.verb("GC", gc),
		Status: p.verb("STATUS", status),
	}, version.PluginSupports(versions...), "CNI hostport plugin "+build)
	if err != nil {
		return p.fail(err)
	}
	return 0
}

// call is what a verb is called with.
type call struct {
	*plugin
	*node.Node
	args *skel.CmdArgs
	// config has the mappings that the log names: those of the record if one was
	// deleted. Without any there was nothing to do.
	config *netconf.Config
}

func (c *call) key() hostport.Key {
	return hostport.Key{ContainerID: c.args.ContainerID, IfName: c.args.IfName}
}

// verb returns what skel is to call for a verb: it reads the configuration,
// runs fn, writes the line of the log and gives an error its code. Only DEL goes
// on with a wrong configuration: the record says what is to be deleted.
func (p *plugin) verb(name string, fn func(context.Context, *call) error) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		config, err := netconf.Parse(args.StdinData)
		p.version = config.CNIVersion
		if err != nil && name != "DEL" {
			return coded(err)
		}
		c := &call{
			plugin: p, args: args, config: config,
			Node: &node.Node{
				Dir: config.DataDir, Timeout: config.LockTimeout, Log: p.logger(config), Runtime: true, AdoptInto: config.Backend,
			},
		}
		start := time.Now()
		err = fn(context.Background(), c)
		c.outcome(name, time.Since(start), err)
		return coded(err)
	}
}

// onHost reports whether the sandbox is the node's own network namespace.
func (c *call) onHost() bool {
	host, err := sandbox.IsHost(c.args.Netns)
	return err == nil && host
}

// pass prints prevResult as it came.
func (c *call) pass() error {
	result, err := c.config.Result()
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c.stdout, "%s\n", result); err != nil {
		return types.NewError(types.ErrIOFailure, "print result: "+err.Error(), "")
	}
	return nil
}

// fail prints a CNI error object and returns the exit status. Some errors quote
// container IDs and network names as they came.
func (p *plugin) fail(e *types.Error) int {
	const most = 8 << 10 // what logs and events can hold
	e.Msg, e.Details = backend.OneLine(e.Msg, most), backend.OneLine(e.Details, most)
	object, err := json.MarshalIndent(struct {
		CNIVersion string `json:"cniVersion"`
		*types.Error
	}{p.version, e}, "", "    ")
	if err == nil {
		_, err = fmt.Fprintf(p.stdout, "%s\n", object)
	}
	if err != nil {
		_, _ = fmt.Fprintln(p.stderr, err)
	}
	return 1
}
