package loopback

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// Open sets net.ipv4.conf.IFNAME.route_localnet to 1 in the calling thread's
// network namespace, and reports whether it was off before. It is idempotent.
// An interface that does not exist is an error for which
// errors.Is(err, fs.ErrNotExist) holds.
func Open(ifname string) (changed bool, err error) {
	on, err := read(ifname)
	if err != nil || on {
		return false, err
	}
	if err := write(ifname, "1"); err != nil {
		return false, err
	}
	return true, nil
}

// Close sets net.ipv4.conf.IFNAME.route_localnet to 0. It is idempotent, and an
// interface that is gone took its setting with it: no error.
func Close(ifname string) error {
	err := write(ifname, "0")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Check is nil if route_localnet is on for the interface, and names the
// difference if it is not.
func Check(ifname string) error {
	on, err := read(ifname)
	if err != nil {
		return err
	}
	if !on {
		return fmt.Errorf("net.ipv4.conf.%s.route_localnet is 0, want 1: 127.0.0.1 does not reach the pod", ifname)
	}
	return nil
}

func read(ifname string) (on bool, err error) {
	path, err := setting(ifname)
	if err != nil {
		return false, err
	}
	value, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("read route_localnet of interface %s: %w", ifname, err)
	}
	return string(bytes.TrimSpace(value)) != "0", nil
}

func write(ifname, value string) error {
	path, err := setting(ifname)
	if err != nil {
		return err
	}
	// No O_CREATE: procfs would answer it with EACCES where ENOENT is meant.
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set route_localnet of interface %s to %s: %w", ifname, value, err)
	}
	_, err = f.WriteString(value)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("set route_localnet of interface %s to %s: %w", ifname, value, err)
	}
	return nil
}

// setting is the file of the interface's route_localnet. A file and not a
// sysctl name, in which the dot of an interface like eth0.100 would be taken
// for a separator. /proc/sys/net is that of the calling thread's namespace.
//
// It refuses what is no interface name to the kernel (dev_valid_name), which
// would lead to another file, and the two names in that directory which are no
// interfaces: they would open 127.0.0.0/8 on every one.
func setting(ifname string) (string, error) {
	const maxName = 15 // IFNAMSIZ less the terminating NUL
	invalid := ifname == "" || len(ifname) > maxName || ifname == "." || ifname == ".." ||
		strings.ContainsAny(ifname, "/:\x00 \t\n\v\f\r")
	if invalid || ifname == "all" || ifname == "default" {
		return "", fmt.Errorf("refuse %q: not the name of an interface", ifname)
	}
	return "/proc/sys/net/ipv4/conf/" + ifname + "/route_localnet", nil
}
