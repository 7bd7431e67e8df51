package netconf

import (
	"encoding/json"
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
	DefaultMarkMasqBit = 13
)

// maxLockTimeout keeps a mistaken value from blocking pod starts for hours.
const maxLockTimeout = 10 * time.Minute

// Versions returns the versions of the CNI specification whose configurations
// and results are understood, the newest last.
func Versions() []string { return []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} }

// Config is a validated network configuration.
type Config struct {
	CNIVersion string
	Name       string
	// Backend is the name of a backend, or "" to let the node choose.
	Backend string
	// DataDir is where the state is kept, an absolute path.
	DataDir string
	// LockTimeout bounds the wait for other invocations.
	LockTimeout time.Duration
	// DenyListeners refuses mappings to ports on which a process listens.
	DenyListeners bool
	// AskAgent has the agent asked for the pod's host ports.
	AskAgent bool
	LogLevel slog.Level
	// LogFile is an absolute path, or "" for warnings on stderr.
	LogFile  string
	Options  hostport.Options
	Mappings []hostport.Mapping
	// PrevResult is the result of the previous plugin as it came, or nil.
	PrevResult json.RawMessage
	// ValidAttachments are those that a GC keeps. Listed reports whether there
	// is a list: an empty one means that nothing is kept.
	ValidAttachments []hostport.Key
	Listed           bool
}

// FieldError says which key of the configuration is wrong.
type FieldError struct {
	// Field is the path of the key, such as runtimeConfig.portMappings[1].hostPort.
	Field string
	Err   error
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }

// Unwrap returns the reason.
func (e *FieldError) Unwrap() error { return e.Err }

func fieldErrorf(field, format string, args ...any) *FieldError {
	return &FieldError{Field: field, Err: fmt.Errorf(format, args...)}
}

// configuration is the field of errors about the document as a whole.
const configuration = "network configuration"

type validAttachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// Parse reads a configuration. It returns a Config also with an error, with
// defaults for what is wrong: DEL goes on with it, because what is recorded
// must be removable even if the configuration has gone bad. The error joins one
// FieldError for each wrong key.
func Parse(data []byte) (*Config, error) {
	c := &Config{
		DataDir:     DefaultDataDir,
		LockTimeout: DefaultLockTimeout,
		LogLevel:    slog.LevelInfo,
		Options:     hostport.Options{SNAT: true, MarkMasqBit: DefaultMarkMasqBit},
	}
	r := &reader{}
	if err := json.Unmarshal(data, &r.document); err != nil {
		r.refuse(configuration, err)
		return c, r.err()
	}
	read(r, "cniVersion", &c.CNIVersion)
	read(r, "name", &c.Name)
	marked := r.readOptions(&c.Options)
	r.readBackend(c, marked)
	readPath(r, "dataDir", &c.DataDir)
	readDuration(r, "lockTimeout", maxLockTimeout, &c.LockTimeout)
	readChoice(r, "hostListener", map[string]bool{"ignore": false, "deny": true}, &c.DenyListeners)
	readChoice(r, "podPorts", map[string]bool{"runtime": false, "agent": true}, &c.AskAgent)
	readChoice(r, "logLevel", map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "warning": slog.LevelWarn, "error": slog.LevelError,
	}, &c.LogLevel)
	readPath(r, "logFile", &c.LogFile)
	var runtimeConfig struct {
		PortMappings json.RawMessage `json:"portMappings"`
	}
	if read(r, "runtimeConfig", &runtimeConfig) {
		c.Mappings = r.readMappings("runtimeConfig.portMappings", runtimeConfig.PortMappings)
	}
	read(r, "prevResult", &c.PrevResult)
	const attachments = "cni.dev/valid-attachments"
	c.Listed = r.get(attachments) != nil
	readList(r, attachments, r.get(attachments), func(at func() string, v *validAttachment) {
		if v.ContainerID == "" || v.IfName == "" {
			r.failf(at(), "containerID and ifname are required")
		}
		c.ValidAttachments = append(c.ValidAttachments, hostport.Key(*v))
	})
	return c, r.err()
}

// readOptions reports whether there is a markMasqBit.
func (r *reader) readOptions(o *hostport.Options) (marked bool) {
	read(r, "snat", &o.SNAT)
	read(r, "masqAll", &o.MasqueradeAll)
	bit := float64(o.MarkMasqBit)
	marked = read(r, "markMasqBit", &bit)
	if n, err := whole[int](&bit, 0, 31); err != nil {
		r.failf("markMasqBit", "%w", err)
	} else {
		o.MarkMasqBit = n
	}
	read(r, "externalSetMarkChain", &o.ExternalSetMarkChain)
	if o.ExternalSetMarkChain != "" && marked {
		r.failf("markMasqBit", "cannot be combined with externalSetMarkChain")
	}
	readWords(r, "conditionsV4", &o.ConditionsV4)
	readWords(r, "conditionsV6", &o.ConditionsV6)
	return marked
}

// readBackend reads the backend's name. A configuration without one that has
// what only iptables understands was written for the portmap plugin, whose
// default is iptables.
func (r *reader) readBackend(c *Config, marked bool) {
	choices := map[string]string{}
	for _, name := range backend.Names() {
		choices[name] = name
	}
	readChoice(r, "backend", choices, &c.Backend)
	o := c.Options
	isWord := func(s string) bool { return s == "!" || strings.HasPrefix(s, "-") }
	if c.Backend == "" && (marked || o.ExternalSetMarkChain != "" || slices.ContainsFunc(slices.Concat(o.ConditionsV4, o.ConditionsV6), isWord)) {
		c.Backend = backend.Iptables
	}
}
