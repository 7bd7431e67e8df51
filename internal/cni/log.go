package cni

import (
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/netconf"
)

// logger writes to the configured file, or warnings to standard error, which
// runtimes keep. A file that cannot be opened costs its lines, not the pod.
// done gives the file back.
func (p *Plugin) logger(c *netconf.Config) (log *slog.Logger, done func()) {
	if c.LogFile == "" {
		level := max(c.LogLevel, slog.LevelWarn)
		return slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: level})), func() {}
	}
	// O_APPEND keeps the lines of processes that run at once apart.
	f, err := os.OpenFile(c.LogFile, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		log = slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
		log.Warn("log file cannot be opened", "reason", err)
		return log, func() {}
	}
	return slog.New(slog.NewTextHandler(f, &slog.HandlerOptions{Level: c.LogLevel})), func() { _ = f.Close() }
}
