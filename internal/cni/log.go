package cni

import (
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// logger returns a logger for the configured file, or for warnings on standard
// error, which runtimes keep. A file that cannot be opened is a warning there.
// done closes the file.
func (p *plugin) logger(c *netconf.Config) (log *slog.Logger, done func()) {
	toStderr := func() *slog.Logger {
		return slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: max(c.LogLevel, slog.LevelWarn)}))
	}
	if c.LogFile == "" {
		return toStderr(), func() {}
	}
	// O_APPEND keeps the lines of processes that run at once apart.
	f, err := os.OpenFile(c.LogFile, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		log = toStderr()
		log.Warn("log file cannot be opened", "reason", err)
		return log, func() {}
	}
	return slog.New(slog.NewTextHandler(f, &slog.HandlerOptions{Level: c.LogLevel})), func() { _ = f.Close() }
}

// outcome writes the one line that a call leaves in the log.
func (c *call) outcome(verb string, took time.Duration, err error) {
	attrs := []any{"container", c.args.ContainerID, "interface", c.args.IfName, "ports", ports(c.mappings), "duration", took}
	switch {
	case err != nil:
		c.Log.Error(verb+" failed", append(attrs, "error", err)...)
	case !c.idle:
		c.Log.Info(verb, attrs...)
	}
}

// ports lists host ports for the log, not more than a line can hold.
func ports(ms []hostport.Mapping) string {
	const most = 16
	s := ""
	for i, m := range ms {
		if i == most {
			return fmt.Sprintf("%s and %d more", s, len(ms)-most)
		}
		if i > 0 {
			s += ","
		}
		s += m.String()
	}
	return s
}
