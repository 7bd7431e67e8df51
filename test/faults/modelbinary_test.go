package faults

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/hostport-cni/hostport/internal/fault"
	"github.com/hostport-cni/hostport/pkg/hostport"
	"github.com/hostport-cni/hostport/test/world"
)

// killed lets the binary die. What was recorded before counts: the next
// invocation carries it through.
func (n *modelNode) killed(verb string, a action) error {
	want, point := n.want(a), fault.Points()[a.point]
	if verb == "DEL" {
		if _, recorded := n.model.attachments[want.ContainerID]; recorded && point != fault.BeforeRecord {
			delete(n.model.attachments, want.ContainerID)
		}
	} else if point != fault.BeforeRecord {
		n.model.add(want.ContainerID, n.entry(a))
	}
	if err := n.binary(n.plugin, verb, want, point); err != nil && !errors.Is(err, errHeld) {
		return err
	}
	return nil
}

var errHeld = errors.New("held, says the binary")

// binary runs a plugin's binary for an attachment.
func (n *modelNode) binary(plugin, verb string, want *hostport.Attachment, point string) error {
	mappings := []world.Config{}
	for _, m := range want.Mappings {
		mappings = append(mappings, world.Config{"HostPort": m.HostPort, "ContainerPort": m.ContainerPort, "Protocol": "tcp"})
	}
	stdin, err := json.Marshal(world.Config{
		"cniVersion": "1.1.0", "name": want.Network, "type": "hostport", "dataDir": n.node.Dir, "backend": want.Backend,
		"runtimeConfig": world.Config{"portMappings": mappings},
		"prevResult":    world.PrevResult(want.Sandbox.Path, want.Addresses[0].String(), want.Addresses[1].String()),
	})
	if err != nil {
		return err
	}
	cmd := exec.Command(plugin)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + want.ContainerID, "CNI_IFNAME=eth0", "CNI_NETNS=" + want.Sandbox.Path,
		"CNI_PATH=/opt/cni/bin", "CNI_ARGS=K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + want.Pod.Name + ";K8S_POD_UID=" + want.Pod.UID, "HOSTPORT_FAULT=" + point,
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	err = cmd.Run()
	switch {
	case err == nil || cmd.ProcessState.ExitCode() < 0:
		return nil
	case bytes.Contains(stdout.Bytes(), []byte(`"code": 101`)):
		return fmt.Errorf("%w: %s", errHeld, stdout.Bytes())
	default:
		return fmt.Errorf("%w: %s%s", err, stdout.Bytes(), stderr.Bytes())
	}
}
