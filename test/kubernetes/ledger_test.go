package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
)

// hostportctl runs the operator's tool where the plugin keeps its records.
func (c *cluster) hostportctl(args ...string) (string, error) {
	if c.dataDir != "" {
		args = append(args, "--data-dir", c.dataDir)
	}
	if c.agent {
		// The one that the agent has installed: of its own version.
		return c.node.command(c.cniBin()+"/hostportctl", append(args, "--conf-dir", nodeCNI+"/net.d")...)
	}
	return c.node.command("hostportctl", args...)
}

// consistent wants what an operator wants: as many pods with host ports on record as
// there are, and the kernel's rules as recorded.
func (c *cluster) consistent(t *testing.T, attachments int) {
	t.Helper()
	c.await(t, fmt.Sprintf("%d recorded attachments and their rules", attachments), func(context.Context) error {
		listing, err := c.hostportctl("list", "--output", "json")
		if err != nil {
			return err
		}
		var list struct {
			HostPorts []struct{ ContainerID, IfName string }
		}
		if err := json.Unmarshal([]byte(listing), &list); err != nil {
			return err
		}
		recorded := map[any]bool{}
		for _, p := range list.HostPorts {
			recorded[p] = true
		}
		if len(recorded) != attachments {
			return fmt.Errorf("%d attachments are recorded:\n%s", len(recorded), listing)
		}
		differences, err := c.hostportctl("check")
		if err != nil {
			return fmt.Errorf("%w\n%s", err, differences)
		}
		return nil
	})
}
