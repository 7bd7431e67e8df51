package cni

import (
	"context"
	"slices"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/internal/podports"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// findMappings asks the agent for the pod's host ports, if the configuration says
// so. If the runtime sends some too and they differ, or the agent does not
// answer, the runtime's are used, because it starts the pod. If the runtime sends
// none and the agent does not answer, the error asks the runtime to try again.
// For a container that belongs to no pod, the agent is not asked.
func (c *call) findMappings(ctx context.Context) error {
	pod := netconf.ParsePod(c.args.Args)
	if !c.config.AskAgent || pod.Name == "" || pod.Namespace == "" {
		return nil
	}
	sent := c.config.Mappings
	var known []hostport.Mapping
	answer, err := podports.Ask(ctx, podports.Socket(c.config.DataDir), podports.Request(pod))
	if err == nil {
		known, err = netconf.ParseMappings("the agent's portMappings", answer)
	}
	switch {
	case len(sent) > 0 && err != nil:
		c.Log.Warn("the agent could not be asked: the runtime's host ports are used", "pod", pod, "reason", err)
	case len(sent) > 0 && !sameMappings(sent, known):
		c.Log.Warn("agent and runtime do not agree: the runtime's host ports are used", "pod", pod, "agent", ports(known), "runtime", ports(sent))
	case err != nil:
		return types.NewError(types.ErrTryAgainLater, "host ports of pod "+pod.String()+" are not known: "+err.Error(),
			"the runtime sends no port mappings, and podPorts says to ask hostport-agent; try again later")
	default:
		c.config.Mappings = known
	}
	return nil
}

// sameMappings compares mappings without regard to order.
func sameMappings(a, b []hostport.Mapping) bool {
	within := func(a, b []hostport.Mapping) bool {
		return !slices.ContainsFunc(a, func(m hostport.Mapping) bool { return !slices.Contains(b, m) })
	}
	return within(a, b) && within(b, a)
}
