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

// document is the configuration as it is written. A key that is null, or not
// there, is nil.
type document struct {
	CNIVersion           *string            `json:"cniVersion"`
	Name                 *string            `json:"name"`
	Backend              *string            `json:"backend"`
	SNAT                 *bool              `json:"snat"`
	MasqAll              *bool              `json:"masqAll"`
	MarkMasqBit          *float64           `json:"markMasqBit"`
	ExternalSetMarkChain *string            `json:"externalSetMarkChain"`
	ConditionsV4         []*string          `json:"conditionsV4"`
	ConditionsV6         []*string          `json:"conditionsV6"`
	DataDir              *string            `json:"dataDir"`
	LockTimeout          any                `json:"lockTimeout"`
	HostListener         *string            `json:"hostListener"`
	PodPorts             *string            `json:"podPorts"`
	LogLevel             *string            `json:"logLevel"`
	LogFile              *string            `json:"logFile"`
	RuntimeConfig        runtimeConfig      `json:"runtimeConfig"`
	PrevResult           json.RawMessage    `json:"prevResult"`
	ValidAttachments     []*validAttachment `json:"cni.dev/valid-attachments"`
}

type runtimeConfig struct {
	PortMappings []*portMapping `json:"portMappings"`
}

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
	var d document
	r := &reader{}
	r.decode(configuration, data, &d)
	if r.wrong(configuration) {
		return c, r.err()
	}
	read(r, "cniVersion", d.CNIVersion, &c.CNIVersion)
	read(r, "name", d.Name, &c.Name)
	r.readOptions(&d, &c.Options)
	r.readBackend(&d, c)
	readPath(r, "dataDir", d.DataDir, &c.DataDir)
	readDuration(r, "lockTimeout", d.LockTimeout, maxLockTimeout, &c.LockTimeout)
	readChoice(r, "hostListener", d.HostListener, map[string]bool{"ignore": false, "deny": true}, &c.DenyListeners)
	readChoice(r, "podPorts", d.PodPorts, map[string]bool{"runtime": false, "agent": true}, &c.AskAgent)
	if d.LogLevel != nil {
		*d.LogLevel = strings.ToLower(*d.LogLevel)
	}
	readChoice(r, "logLevel", d.LogLevel, map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "warning": slog.LevelWarn, "error": slog.LevelError,
	}, &c.LogLevel)
	readPath(r, "logFile", d.LogFile, &c.LogFile)
	c.Mappings = r.readMappings(portMappings, d.RuntimeConfig.PortMappings)
	if string(d.PrevResult) != "null" {
		c.PrevResult = d.PrevResult
	}
	c.Listed = d.ValidAttachments != nil
	readList(r, "cni.dev/valid-attachments", d.ValidAttachments, func(at func() string, v *validAttachment) {
		if v.ContainerID == "" || v.IfName == "" {
			r.failf(at(), "containerID and ifname are required")
		}
		c.ValidAttachments = append(c.ValidAttachments, hostport.Key(*v))
	})
	return c, r.err()
}

func (r *reader) readOptions(d *document, o *hostport.Options) {
	read(r, "snat", d.SNAT, &o.SNAT)
	read(r, "masqAll", d.MasqAll, &o.MasqueradeAll)
	if d.MarkMasqBit != nil {
		bit, err := whole[int](d.MarkMasqBit, 0, 31)
		if err != nil {
			r.failf("markMasqBit", "%w", err)
		} else {
			o.MarkMasqBit = bit
		}
	}
	read(r, "externalSetMarkChain", d.ExternalSetMarkChain, &o.ExternalSetMarkChain)
	if o.ExternalSetMarkChain != "" && d.MarkMasqBit != nil {
		r.failf("markMasqBit", "cannot be combined with externalSetMarkChain")
	}
	readList(r, "conditionsV4", d.ConditionsV4, func(_ func() string, word *string) { o.ConditionsV4 = append(o.ConditionsV4, *word) })
	readList(r, "conditionsV6", d.ConditionsV6, func(_ func() string, word *string) { o.ConditionsV6 = append(o.ConditionsV6, *word) })
}

// readBackend reads the backend's name. A configuration without one that has
// what only iptables understands was written for the portmap plugin, whose
// default is iptables.
func (r *reader) readBackend(d *document, c *Config) {
	choices := map[string]string{}
	for _, name := range backend.Names() {
		choices[name] = name
	}
	readChoice(r, "backend", d.Backend, choices, &c.Backend)
	o := c.Options
	isWord := func(s string) bool { return s == "!" || strings.HasPrefix(s, "-") }
	if c.Backend == "" && (d.MarkMasqBit != nil || o.ExternalSetMarkChain != "" || slices.ContainsFunc(slices.Concat(o.ConditionsV4, o.ConditionsV6), isWord)) {
		c.Backend = backend.Iptables
	}
}
