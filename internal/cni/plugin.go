// Package cni serves the verbs of the CNI specification: standard input and
// environment in, a result or a CNI error out. It is the only package that
// knows the plugin protocol and its error codes.
package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

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
	if err == nil {
		return 0
	}
	const most = 8 << 10 // what logs and events can hold
	// Some errors quote container IDs and network names unescaped.
	err.Msg, err.Details = backend.OneLine(err.Msg, most), backend.OneLine(err.Details, most)
	object, _ := json.MarshalIndent(struct { // of text and a number, which cannot fail
		CNIVersion string `json:"cniVersion"`
		*types.Error
	}{c.config.CNIVersion, err}, "", "    ")
	if _, err := fmt.Fprintf(c.stdout, "%s\n", object); err != nil {
		_, _ = fmt.Fprintln(c.stderr, err)
	}
	return 1
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

// verb returns the function that skel calls for a verb. Only DEL continues with a wrong
// configuration: the record says what to delete.
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

// logger returns a logger for the configured file, or for warnings on standard
// error, which runtimes keep. If the file cannot be opened, it warns there.
func (c *call) logger() *slog.Logger {
	toStderr := slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: max(c.config.LogLevel, slog.LevelWarn)}))
	if c.config.LogFile == "" {
		return toStderr
	}
	// O_APPEND keeps the lines of concurrent processes apart, O_NONBLOCK does not wait
	// for the reader of a FIFO.
	f, err := os.OpenFile(c.config.LogFile, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		toStderr.Warn("log file cannot be opened", "reason", err)
		return toStderr
	}
	return slog.New(slog.NewTextHandler(f, &slog.HandlerOptions{Level: c.config.LogLevel})) // closed with the process
}

// outcome counts a call and writes its single log line, unless there was nothing
// to do. It skips STATUS, because runtimes ask for it every few seconds.
func (c *call) outcome(verb string, took time.Duration, err error) {
	if verb == "STATUS" || err == nil && len(c.config.Mappings) == 0 && verb != "GC" {
		return
	}
	attrs := []any{"container", c.args.ContainerID, "interface", c.args.IfName, "ports", ports(c.config.Mappings), "duration", took}
	if err != nil {
		c.Log.Error(verb+" failed", append(attrs, "error", err)...)
	} else {
		c.Log.Info(verb, attrs...)
	}
	c.Count(verb+"/"+result(err), took)
}

// ports lists host ports for the log, no more than fit on a line.
func ports(ms []hostport.Mapping) string {
	const most = 16
	var names []string
	for _, m := range ms[:min(most, len(ms))] {
		names = append(names, m.String())
	}
	if more := len(ms) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names, ","), more)
	}
	return strings.Join(names, ",")
}
