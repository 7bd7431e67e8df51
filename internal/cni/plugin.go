package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/internal/node"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Main serves the verb that the environment names and returns the exit status:
// 0, or 1 with a CNI error object on standard output. build is the version of
// the plugin itself, for people who run it without a verb.
func Main(build string) int {
	versions := netconf.Versions()
	newest := &netconf.Config{CNIVersion: versions[len(versions)-1]}
	c := &call{stdout: os.Stdout, stderr: os.Stderr, config: newest}
	// skel refuses a sandbox that is the node's own network namespace. The plugin
	// accepts such pods: they have their ports already.
	_ = os.Setenv("CNI_NETNS_OVERRIDE", "1") // fails only for invalid names
	err := skel.PluginMainFuncsWithError(skel.CNIFuncs{
		Add:    c.verb("ADD", add),
		Del:    c.verb("DEL", del),
		Check:  c.verb("CHECK", check),
		GC:     c.verb("GC", gc),
		Status: c.verb("STATUS", status),
	}, version.PluginSupports(versions...), "CNI hostport plugin "+build)
	if err != nil {
		return c.fail(err)
	}
	return 0
}

// call is one invocation: a process serves one verb.
type call struct {
	*node.Node
	stdout, stderr io.Writer
	args           *skel.CmdArgs
	// config has the mappings for the log: those of the record if one was deleted.
	// Without mappings there was nothing to do. Until skel has accepted its version,
	// config has only the newest version.
	config *netconf.Config
	// bare is set if a valid configuration shows that the attachment has no mappings.
	bare bool
	// aside is the work that the call waits for only at its end.
	aside sync.WaitGroup
}

// verb returns the function that skel calls for a verb: it reads the
// configuration, runs fn, writes the log line and gives an error its code. Only
// DEL continues with a wrong configuration: the record says what to delete.
func (c *call) verb(name string, fn func(context.Context, *call) error) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		config, err := netconf.Parse(args.StdinData)
		c.args, c.config = args, config
		c.bare = err == nil && len(config.Mappings) == 0 && !config.AskAgent
		if err != nil && name != "DEL" {
			return coded(err)
		}
		c.Node = &node.Node{Dir: config.DataDir, Timeout: config.LockTimeout, Log: c.logger(), Runtime: true, AdoptInto: config.Backend}
		start := time.Now()
		err = fn(context.Background(), c)
		c.aside.Wait()
		c.outcome(name, time.Since(start), err)
		return coded(err)
	}
}

func (c *call) key() hostport.Key {
	return hostport.Key{ContainerID: c.args.ContainerID, IfName: c.args.IfName}
}

// pass prints prevResult unchanged.
func (c *call) pass() error {
	result, err := c.config.Result()
	if err != nil {
		return err
	}
	if _, err := c.stdout.Write(slices.Concat(result, []byte{'\n'})); err != nil {
		return types.NewError(types.ErrIOFailure, "print result: "+err.Error(), "")
	}
	return nil
}

// fail prints a CNI error object and returns the exit status. Some errors quote
// container IDs and network names unescaped.
func (c *call) fail(e *types.Error) int {
	const most = 8 << 10 // what logs and events can hold
	e.Msg, e.Details = backend.OneLine(e.Msg, most), backend.OneLine(e.Details, most)
	object, _ := json.MarshalIndent(struct { // of text and a number, which cannot fail
		CNIVersion string `json:"cniVersion"`
		*types.Error
	}{c.config.CNIVersion, e}, "", "    ")
	if _, err := fmt.Fprintf(c.stdout, "%s\n", object); err != nil {
		_, _ = fmt.Fprintln(c.stderr, err)
	}
	return 1
}
