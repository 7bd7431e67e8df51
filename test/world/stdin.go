package world

import (
	"encoding/json"
)

// stdin returns the configuration that libcni passes to the last plugin of the
// chain.
func (a *Attachment) stdin(changes Config) []byte {
	n := a.Network
	n.w.t.Helper()
	last := n.list.Plugins[len(n.list.Plugins)-1]
	config := Config{}
	if err := json.Unmarshal(last.Bytes, &config); err != nil {
		n.w.t.Fatal(err)
	}
	config["name"] = n.Name
	config["cniVersion"] = n.list.CNIVersion
	if len(a.runtime.CapabilityArgs) > 0 {
		config["runtimeConfig"] = a.runtime.CapabilityArgs
	}
	if a.Result != nil {
		result, err := a.Result.GetAsVersion(n.list.CNIVersion)
		if err != nil {
			n.w.t.Fatal(err)
		}
		config["prevResult"] = result
	}
	stdin, err := json.Marshal(config.with(changes))
	if err != nil {
		n.w.t.Fatal(err)
	}
	return stdin
}

// Stdin returns a configuration of the chained plugin for an Invocation, in the
// network podnet. A nil value in changes removes a key.
func (w *World) Stdin(changes Config) []byte {
	w.t.Helper()
	config := w.HostportConfig("", Config{"name": "podnet", "cniVersion": "1.1.0"})
	stdin, err := json.Marshal(config.with(changes))
	if err != nil {
		w.t.Fatal(err)
	}
	return stdin
}

// PrevResult returns a main plugin's result for an Invocation: one interface
// eth0 in the sandbox, with these addresses in CIDR notation.
func PrevResult(sandbox string, addresses ...string) Config {
	ips := make([]Config, 0, len(addresses))
	for _, address := range addresses {
		ips = append(ips, Config{"address": address, "interface": 0})
	}
	return Config{
		"cniVersion": "1.1.0",
		"interfaces": []Config{{"name": "eth0", "sandbox": sandbox}},
		"ips":        ips,
	}
}
