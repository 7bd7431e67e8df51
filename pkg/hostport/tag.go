package hostport

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
)

// BootHash returns eight hexadecimal digits that stand for a boot ID
// (/proc/sys/kernel/random/boot_id) where the whole ID does not fit.
func BootHash(bootID string) string {
	sum := sha256.Sum256([]byte(bootID))
	return hex.EncodeToString(sum[:4])
}

// Tag returns the owner as it is written into the comments of rules and
// elements, cut to limit bytes: container ID, interface, the sandbox's inode
// with boot and state ("4026532008@1a2b3c4d.5e6f70"), network and pod, separated
// by single spaces, "-" where unknown. A lost state is rebuilt from it, so
// identifying parts come first, and parts that may be cut last. An inode is never
// cut, because a shorter number would be another inode. If the container ID is
// longer than any runtime's, the tag ends before the inode and names no owner.
// Characters that could be syntax to a tool or a terminal become "_".
func (a *Attachment) Tag(limit int) string {
	inode := strconv.FormatUint(a.Sandbox.Inode, 10)
	if a.Boot != "" {
		inode += "@" + a.Boot
		if a.State != "" {
			inode += "." + a.State
		}
	}
	fields := []string{a.ContainerID, a.IfName, inode, a.Network, a.Pod.tag()}
	for i, f := range fields {
		fields[i] = tagField(f)
	}
	t := strings.Join(fields, " ")
	if len(strings.Join(fields[:3], " ")) > limit {
		t = fields[0] + " " + fields[1]
	}
	return strings.TrimRight(t[:min(limit, len(t))], " ")
}

func tagField(s string) string {
	if s == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:/-@", r) {
			return r
		}
		return '_'
	}, s)
}

// ParseTag parses a Tag into an attachment that has only its identity: no
// addresses, mappings or options. Tags of layout 1 have neither boot nor state. It
// returns false for any other text.
func ParseTag(t string) (a Attachment, ok bool) {
	f := strings.Split(t, " ")
	if len(f) < 3 || len(f) > 5 {
		return a, false
	}
	for i, s := range f {
		if s != tagField(s) {
			return a, false
		}
		if s == "-" {
			f[i] = ""
		}
	}
	number, boot, booted := strings.Cut(f[2], "@")
	boot, state, stated := strings.Cut(boot, ".")
	inode, err := strconv.ParseUint(number, 10, 64)
	if err != nil || f[0] == "" || f[1] == "" || booted && boot == "" || stated && state == "" {
		return a, false
	}
	f = append(f, "", "") // what was cut off
	a = Attachment{Key: Key{ContainerID: f[0], IfName: f[1]}, Sandbox: Sandbox{Inode: inode}, Boot: boot, State: state, Network: f[3]}
	if namespace, name, _ := strings.Cut(f[4], "/"); name != "" {
		a.Pod = Pod{Namespace: namespace, Name: name}
	}
	return a, true
}
