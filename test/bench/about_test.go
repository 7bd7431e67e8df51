//go:build bench

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAbout notes what was measured on, and with what. Its file sorts first, so
// that the load is that before the measurements.
func TestAbout(t *testing.T) {
	note := func(what, value string) {
		t.Logf("%s: %s", what, value)
		if *output == "" {
			return
		}
		if err := Write(*output, Result{Section: "machine", Subject: what, Labels: labels("value", value)}); err != nil {
			t.Fatal(err)
		}
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		t.Fatal(err)
	}
	kernel, _, _ := strings.Cut(unix.ByteSliceToString(uts.Release[:]), "-")
	note("date", time.Now().UTC().Format("2006-01-02"))
	note("kernel", "Linux "+kernel)
	note("processor", fmt.Sprintf("%s, %d cores", processor(), runtime.NumCPU()))
	note("Go", runtime.Version())
	note("iptables", firstLine("iptables", "--version"))
	note("nft", firstLine("nft", "--version"))
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "github.com/containernetworking/plugins" {
				note("portmap", m.Version)
			}
		}
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	note("load average at the start", strings.Join(strings.Fields(string(load))[:3], " "))
}

func processor() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return runtime.GOARCH
}

func firstLine(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}
