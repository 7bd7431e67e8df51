// Package netconf reads the network configuration that a runtime hands to the
// plugin: bytes in, typed and validated out. It touches nothing on the node.
//
// The keys are those of the portmap plugin, with the same meaning, and a few
// of our own; docs/configuration.md lists them. Keys are matched without
// regard to case, because containerd writes HostPort where the CNI conventions
// say hostPort.
package netconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Defaults of the configuration keys.
const (
	DefaultDataDir     = "/run/hostport"
	DefaultLockTimeout = 30 * time.Second
)

// Versions returns the supported versions of the CNI specification, the newest last.
func Versions() []string { return []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} }

// Config is a validated network configuration.
type Config struct {
	CNIVersion    string
	Name          string
	Backend       string        // the name of a backend, or "" to let the node choose
	DataDir       string        // the state directory, an absolute path
	LockTimeout   time.Duration // bounds the wait for other invocations
	DenyListeners bool          // refuse mappings to ports on which a process listens
	AskAgent      bool          // ask the agent for the pod's host ports
	LogLevel      slog.Level
	LogFile       string // an absolute path, or "" for warnings on stderr
	Options       hostport.Options
	Mappings      []hostport.Mapping
	PrevResult    json.RawMessage // the unchanged result of the previous plugin, or nil
	// ValidAttachments are those that a GC keeps. Listed is set if there is a list:
	// with an empty one, nothing is kept.
	ValidAttachments []hostport.Key
	Listed           bool
}

// FieldError says which key of the configuration is wrong.
type FieldError struct {
	// Field is the path of the key, such as runtimeConfig.portMappings[1].hostPort,
	// or "network configuration" for the whole.
	Field  string
	Reason string
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Reason }

func fieldErrorf(field, format string, args ...any) *FieldError {
	return &FieldError{field, fmt.Sprintf(format, args...)}
}

// Parse reads a configuration. The error joins one FieldError for each wrong key. Even then
// it returns a Config, with defaults for the wrong keys: DEL continues with it, because a
// record must be removable even if the configuration has become invalid.
func Parse(data []byte) (*Config, error) {
	c := &Config{
		DataDir:     DefaultDataDir,
		LockTimeout: DefaultLockTimeout,
		Options:     hostport.Options{SNAT: true, MarkMasqBit: 13},
	}
	var r reader
	if !r.decode("network configuration", data, &r.document) {
		return c, errors.Join(r.errs...)
	}
	r.read("cniVersion", &c.CNIVersion)
	r.read("name", &c.Name)
	c.Backend = r.readWord("backend", backend.Names()...)
	r.readOptions(c)
	r.readPath("dataDir", &c.DataDir)
	r.readDuration("lockTimeout", &c.LockTimeout)
	c.DenyListeners = r.readWord("hostListener", "ignore", "deny") == "deny"
	c.AskAgent = r.readWord("podPorts", "runtime", "agent") == "agent"
	level := strings.TrimSuffix(r.readWord("logLevel", "debug", "info", "warn", "warning", "error"), "ing")
	if level != "" {
		_ = c.LogLevel.UnmarshalText([]byte(level)) // slog knows all of these words
	}
	r.readPath("logFile", &c.LogFile)
	var runtime struct{ PortMappings json.RawMessage }
	r.read("runtimeConfig", &runtime)
	c.Mappings = r.readMappings("runtimeConfig.portMappings", runtime.PortMappings)
	r.read("prevResult", &c.PrevResult)
	const attachments = "cni.dev/valid-attachments"
	c.Listed = r.read(attachments, &c.ValidAttachments)
	if slices.ContainsFunc(c.ValidAttachments, func(k hostport.Key) bool { return k.ContainerID == "" || k.IfName == "" }) {
		r.failf(attachments, "containerID and ifname are required")
	}
	return c, errors.Join(r.errs...)
}

// readOptions reads the options that shape rules. If no backend is configured and an
// option suits only one backend, it selects that one.
func (r *reader) readOptions(c *Config) {
	o := &c.Options
	r.read("snat", &o.SNAT)
	r.read("masqAll", &o.MasqueradeAll)
	bit := o.MarkMasqBit
	marked := r.read("markMasqBit", &bit)
	if err := outside(bit, 0, 31); err != nil {
		r.failf("markMasqBit", "%v", err)
	} else {
		o.MarkMasqBit = bit
	}
	r.read("externalSetMarkChain", &o.ExternalSetMarkChain)
	if o.ExternalSetMarkChain != "" && marked {
		r.failf("markMasqBit", "cannot be combined with externalSetMarkChain")
	}
	r.read("conditionsV4", &o.ConditionsV4)
	r.read("conditionsV6", &o.ConditionsV6)
	isWord := func(s string) bool { return s == "!" || strings.HasPrefix(s, "-") }
	conditions := slices.Concat(o.ConditionsV4, o.ConditionsV6)
	switch ofNftables := len(conditions) > 0 && !slices.ContainsFunc(conditions, isWord); {
	case c.Backend != "":
	case ofNftables:
		c.Backend = backend.Nftables
	case marked || o.ExternalSetMarkChain != "" || len(conditions) > 0:
		c.Backend = backend.Iptables
	}
}

// ParsePod reads the pod's name from CNI_ARGS, as Kubernetes runtimes set it
// (K8S_POD_NAMESPACE, K8S_POD_NAME, K8S_POD_UID). Everything else is ignored: the
// name is for people, and a malformed one must not stop a pod.
func ParsePod(args string) hostport.Pod {
	var p hostport.Pod
	for pair := range strings.SplitSeq(args, ";") {
		k, v, _ := strings.Cut(pair, "=")
		v = strings.ToValidUTF8(v, "_")
		switch k {
		case "K8S_POD_NAMESPACE":
			p.Namespace = v
		case "K8S_POD_NAME":
			p.Name = v
		case "K8S_POD_UID":
			p.UID = v
		}
	}
	return p
}
