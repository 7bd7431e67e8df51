package hostport

import (
	"strconv"
	"strings"
)

// Tag is the owner as it is written into the comments of rules and elements,
// cut to limit bytes: container ID, interface, the sandbox's inode, network and
// pod, separated by single spaces, "-" where unknown. State that was lost is
// rebuilt from it, so what identifies comes first and what may be cut, last:
// an inode is never cut, because the rest of it would be another one's. The tag
// ends before it, and names nobody any more, where the container ID is longer
// than any runtime's. Characters that could be syntax to a tool or a terminal
// become "_".
func (a *Attachment) Tag(limit int) string {
	fields := []string{
		a.ContainerID,
		a.IfName,
		strconv.FormatUint(a.Sandbox.Inode, 10),
		a.Network,
		a.Pod.String(),
	}
	for i, f := range fields {
		fields[i] = tagField(f)
	}
	t := strings.Join(fields, " ")
	if len(t) > limit {
		if identity := fields[0] + " " + fields[1]; len(identity)+1+len(fields[2]) > limit {
			t = identity
		}
		t = t[:min(limit, len(t))]
	}
	return strings.TrimRight(t, " ")
}

func tagField(s string) string {
	if s == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		case strings.ContainsRune("._:/-@", r):
			return r
		default:
			return '_'
		}
	}, s)
}

// ParseTag reads a Tag back into an attachment that has only identity: no
// addresses, mappings or options. It reports false for any other text.
func ParseTag(t string) (Attachment, bool) {
	f := strings.Split(t, " ")
	if len(f) < 3 || len(f) > 5 {
		return Attachment{}, false
	}
	for i := range f {
		if f[i] != tagField(f[i]) {
			return Attachment{}, false
		}
		if f[i] == "-" {
			f[i] = ""
		}
	}
	inode, err := strconv.ParseUint(f[2], 10, 64)
	if err != nil || f[0] == "" || f[1] == "" {
		return Attachment{}, false
	}
	a := Attachment{Key: Key{ContainerID: f[0], IfName: f[1]}, Sandbox: Sandbox{Inode: inode}}
	if len(f) > 3 {
		a.Network = f[3]
	}
	if len(f) > 4 {
		if namespace, name, _ := strings.Cut(f[4], "/"); name != "" { // else it was cut off
			a.Pod = Pod{Namespace: namespace, Name: name}
		}
	}
	return a, true
}
