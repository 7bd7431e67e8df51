package cni

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// logger returns a logger for the configured file, or for warnings on standard
// error, which runtimes keep. If the file cannot be opened, it warns there.
func (c *call) logger() *slog.Logger {
	toStderr := slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: max(c.config.LogLevel, slog.LevelWarn)}))
	if c.config.LogFile == "" {
		return toStderr
	}
	// O_APPEND keeps the lines of concurrent processes apart, O_NONBLOCK does not wait
	// for the reader of a FIFO.
	f, err := os.OpenFile(c.config.LogFile, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		toStderr.Warn("log file cannot be opened", "reason", err)
		return toStderr
	}
	return slog.New(slog.NewTextHandler(f, &slog.HandlerOptions{Level: c.config.LogLevel})) // closed with the process
}

// outcome counts a call and writes its single log line, unless there was nothing
// to do. It skips STATUS, because runtimes ask for it every few seconds.
func (c *call) outcome(verb string, took time.Duration, err error) {
	if verb == "STATUS" || err == nil && len(c.config.Mappings) == 0 && verb != "GC" {
		return
	}
	attrs := []any{"container", c.args.ContainerID, "interface", c.args.IfName, "ports", ports(c.config.Mappings), "duration", took}
	if err != nil {
		c.Log.Error(verb+" failed", append(attrs, "error", err)...)
	} else {
		c.Log.Info(verb, attrs...)
	}
	c.Count(verb+"/"+result(err), took)
}

// ports lists host ports for the log, no more than fit on a line.
func ports(ms []hostport.Mapping) string {
	const most = 16
	var names []string
	for _, m := range ms[:min(most, len(ms))] {
		names = append(names, m.String())
	}
	if more := len(ms) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names, ","), more)
	}
	return strings.Join(names, ",")
}
