package netconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Defaults of the configuration keys.
const (
	DefaultDataDir     = "/run/hostport"
	DefaultLockTimeout = 30 * time.Second
	DefaultMarkMasqBit = 13
)

// Backends by name, as the key "backend" has them.
const (
	Iptables = "iptables"
	Nftables = "nftables"
)

// Config is a validated network configuration.
type Config struct {
	CNIVersion string
	Name       string
	// Backend is Iptables, Nftables, or "" to let the node decide.
	Backend string
	// DataDir is where the state is kept, an absolute path.
	DataDir string
	// LockTimeout bounds the wait for other invocations.
	LockTimeout time.Duration
	// DenyListeners refuses mappings to ports on which a process listens.
	DenyListeners bool
	LogLevel      slog.Level
	// LogFile is an absolute path, or "" for warnings on stderr.
	LogFile  string
	Options  hostport.Options
	Mappings []hostport.Mapping
	// PrevResult is the result of the plugin before, as it came; nil if none.
	PrevResult json.RawMessage
	// ValidAttachments is what GC keeps; Valid tells whether the key was
	// there, because an empty list means that nothing is to be kept.
	ValidAttachments []hostport.Key
	Valid            bool

	// markMasqBitSet tells a chosen bit from the default, for ForBackend.
	markMasqBitSet bool
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

func fieldErrorf(field, format string, args ...any) error {
	return &FieldError{Field: field, Err: fmt.Errorf(format, args...)}
}

// raw is the configuration as it is written. Every key is kept raw so that a
// value of the wrong type is an error that names its key.
type raw struct {
	CNIVersion           json.RawMessage `json:"cniVersion"`
	Name                 json.RawMessage `json:"name"`
	Backend              json.RawMessage `json:"backend"`
	SNAT                 json.RawMessage `json:"snat"`
	MasqAll              json.RawMessage `json:"masqAll"`
	MarkMasqBit          json.RawMessage `json:"markMasqBit"`
	ExternalSetMarkChain json.RawMessage `json:"externalSetMarkChain"`
	ConditionsV4         json.RawMessage `json:"conditionsV4"`
	ConditionsV6         json.RawMessage `json:"conditionsV6"`
	DataDir              json.RawMessage `json:"dataDir"`
	LockTimeout          json.RawMessage `json:"lockTimeout"`
	HostListener         json.RawMessage `json:"hostListener"`
	LogLevel             json.RawMessage `json:"logLevel"`
	LogFile              json.RawMessage `json:"logFile"`
	RuntimeConfig        json.RawMessage `json:"runtimeConfig"`
	PrevResult           json.RawMessage `json:"prevResult"`
	ValidAttachments     json.RawMessage `json:"cni.dev/valid-attachments"`
}

// Parse reads a configuration. A *Config comes back also with an error, with
// defaults in the place of what is wrong: DEL goes on with it, because what is
// recorded must be removable even if the configuration has gone bad. The error
// joins one *FieldError for each wrong key.
func Parse(data []byte) (*Config, error) {
	c := &Config{
		DataDir:     DefaultDataDir,
		LockTimeout: DefaultLockTimeout,
		LogLevel:    slog.LevelInfo,
		Options:     hostport.Options{SNAT: true, MarkMasqBit: DefaultMarkMasqBit},
	}
	var r raw
	if err := json.Unmarshal(data, &r); err != nil {
		return c, &FieldError{Field: "network configuration", Err: err}
	}
	if isSet(r.PrevResult) {
		c.PrevResult = r.PrevResult
	}
	return c, errors.Join(
		text(r.CNIVersion, "cniVersion", &c.CNIVersion),
		text(r.Name, "name", &c.Name),
		c.parseBackend(r.Backend),
		c.parseOptions(&r),
		c.parseDataDir(r.DataDir),
		c.parseLockTimeout(r.LockTimeout),
		c.parseHostListener(r.HostListener),
		c.parseLog(r.LogLevel, r.LogFile),
		c.parseRuntimeConfig(r.RuntimeConfig),
		c.parseValidAttachments(r.ValidAttachments),
	)
}

// ForBackend refuses options that belong to another backend than the named
// one.
func (c *Config) ForBackend(backend string) error {
	if backend != Nftables {
		return nil
	}
	var errs []error
	if c.markMasqBitSet {
		errs = append(errs, fieldErrorf("markMasqBit", "is an option of the iptables backend; nftables needs no mark"))
	}
	if c.Options.ExternalSetMarkChain != "" {
		errs = append(errs, fieldErrorf("externalSetMarkChain", "is an option of the iptables backend; nftables needs no mark"))
	}
	return errors.Join(errs...)
}

func (c *Config) parseBackend(m json.RawMessage) error {
	var s string
	if err := text(m, "backend", &s); err != nil {
		return err
	}
	switch s {
	case "", Iptables, Nftables:
		c.Backend = s
		return nil
	default:
		return fieldErrorf("backend", "unknown backend %.80q: want %s or %s", s, Iptables, Nftables)
	}
}

func (c *Config) parseDataDir(m json.RawMessage) error {
	var s string
	if err := text(m, "dataDir", &s); err != nil || s == "" {
		return err
	}
	if !filepath.IsAbs(s) || strings.ContainsRune(s, 0) {
		return fieldErrorf("dataDir", "%.80q is not an absolute path", s)
	}
	c.DataDir = filepath.Clean(s)
	return nil
}

// maxLockTimeout keeps a mistaken value from blocking pod starts for hours.
const maxLockTimeout = 10 * time.Minute

func (c *Config) parseLockTimeout(m json.RawMessage) error {
	const field = "lockTimeout"
	if !isSet(m) {
		return nil
	}
	var s string
	if json.Unmarshal(m, &s) != nil {
		var n float64
		if json.Unmarshal(m, &n) != nil {
			return fieldErrorf(field, "want a duration such as \"30s\" or a number of seconds, not %s", shown(m))
		}
		s = strconv.FormatFloat(n, 'f', -1, 64) + "s"
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return fieldErrorf(field, "%.80q is not a duration such as \"30s\"", s)
	}
	if d <= 0 || d > maxLockTimeout {
		return fieldErrorf(field, "%v is outside 1ns to %v", d, maxLockTimeout)
	}
	c.LockTimeout = d
	return nil
}

func (c *Config) parseHostListener(m json.RawMessage) error {
	var s string
	if err := text(m, "hostListener", &s); err != nil {
		return err
	}
	switch s {
	case "", "ignore":
	case "deny":
		c.DenyListeners = true
	default:
		return fieldErrorf("hostListener", "unknown value %.80q: want ignore or deny", s)
	}
	return nil
}

func (c *Config) parseLog(level, file json.RawMessage) error {
	var l, f string
	if err := errors.Join(text(level, "logLevel", &l), text(file, "logFile", &f)); err != nil {
		return err
	}
	switch strings.ToLower(l) {
	case "", "info":
	case "debug":
		c.LogLevel = slog.LevelDebug
	case "warn", "warning":
		c.LogLevel = slog.LevelWarn
	case "error":
		c.LogLevel = slog.LevelError
	default:
		return fieldErrorf("logLevel", "unknown level %.80q: want debug, info, warn or error", l)
	}
	if f != "" && (!filepath.IsAbs(f) || strings.ContainsRune(f, 0)) {
		return fieldErrorf("logFile", "%.80q is not an absolute path", f)
	}
	c.LogFile = f
	return nil
}

func (c *Config) parseValidAttachments(m json.RawMessage) error {
	const field = "cni.dev/valid-attachments"
	c.Valid = len(m) > 0
	if !isSet(m) {
		return nil
	}
	var list []hostport.Key
	var entries []struct {
		ContainerID string `json:"containerID"`
		IfName      string `json:"ifname"`
	}
	if err := json.Unmarshal(m, &entries); err != nil {
		return fieldErrorf(field, "want a list of {containerID, ifname}: %w", err)
	}
	for i, e := range entries {
		if e.ContainerID == "" || e.IfName == "" {
			return fieldErrorf(fmt.Sprintf("%s[%d]", field, i), "containerID and ifname are required")
		}
		list = append(list, hostport.Key{ContainerID: e.ContainerID, IfName: e.IfName})
	}
	c.ValidAttachments = list
	return nil
}
