package main

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// checkRuns runs the programs of each platform's image, those of another machine
// under qemu-user. That has no netlink for netfilter and cannot tell a namespace's
// kind (NS_GET_NSTYPE), so an ADD fails there, and the nftables backend does
// nothing. A DEL works: it is of a pod that this machine's plugin has added.
func checkRuns(t *testing.T, images map[string]v1.Image) {
	t.Helper()
	if images[runtime.GOARCH] == nil {
		t.Skipf("there is no image for %s", runtime.GOARCH)
	}
	native := unpack(t, images[runtime.GOARCH])
	for arch, image := range images {
		t.Run(arch, func(t *testing.T) {
			p := programs{folder: unpack(t, image), emulator: emulator(t, arch)}
			t.Run("alone", func(t *testing.T) { p.answer(t, arch) })
			t.Run("on a node", func(t *testing.T) { p.handle(t, native) })
		})
	}
}

// programs are those of one image.
type programs struct {
	folder   string
	emulator string // empty for this machine's own
}

// emulator returns the program that runs those of another machine.
func emulator(t *testing.T, arch string) string {
	t.Helper()
	if arch == runtime.GOARCH {
		return ""
	}
	name := map[string]string{"amd64": "qemu-x86_64", "arm64": "qemu-aarch64"}[arch]
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("no emulator for %s (Debian package qemu-user): %v", arch, err)
	}
	return path
}

// answer wants from each program what it has to say without a node.
func (p programs) answer(t *testing.T, arch string) {
	for _, tt := range []struct {
		name, program, args, stdin, want string
		env                              []string
		code                             int
	}{
		{
			name: "VERSION", program: "hostport", env: []string{"CNI_COMMAND=VERSION"}, stdin: `{"cniVersion":"1.1.0"}`,
			want: `"supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]`,
		},
		{
			name: "bad configuration", program: "hostport", stdin: "{",
			env:  []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=pod", "CNI_NETNS=/run/pod", "CNI_IFNAME=eth0", "CNI_PATH=/bin"},
			want: `"code": 6`, code: 1,
		},
		{name: "tool", program: "hostportctl", args: "version", want: "v1.2.3"},
		{name: "agent", program: "hostport-agent", args: "--version", want: "v1.2.3 (" + runtime.Version() + ", linux/" + arch + ")"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			words := strings.Fields(p.emulator + " " + filepath.Join(p.folder, "bin", tt.program) + " " + tt.args)
			cmd := exec.Command(words[0], words[1:]...)
			cmd.Env, cmd.Stdin = tt.env, strings.NewReader(tt.stdin)
			out, err := cmd.Output()
			if err != nil && !errors.As(err, new(*exec.ExitError)) {
				t.Fatal(err)
			}
			if code := cmd.ProcessState.ExitCode(); code != tt.code || !strings.Contains(string(out), tt.want) {
				t.Errorf("exit status %d, %q; want %d, %q", code, out, tt.code, tt.want)
			}
		})
	}
}

// life is that of a pod, on a node of its own. It is a script because a process
// cannot leave a network namespace that it has taken.
const life = `
mount -t tmpfs tmpfs /run
touch /run/pod
unshare --net=/run/pod true
export CNI_CONTAINERID=pod CNI_NETNS=/run/pod CNI_IFNAME=eth0 CNI_PATH=/bin
echo '{"cniVersion": "1.1.0", "name": "podnet", "type": "hostport", "backend": "iptables",
	"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
	"prevResult": {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/run/pod"}],
		"ips": [{"address": "10.244.0.2/24", "interface": 0}]}}' >/run/conf
CNI_COMMAND=ADD $NATIVE/bin/hostport </run/conf >/dev/null
iptables-save -t nat | grep -e '--to-destination 10.244.0.2:80'
run() { # qemu-user may hang for ever in the child when a process forks
	n=1
	until timeout --signal KILL 60 $EMULATOR "$FOLDER/bin/$@" </run/conf; do
		[ $? = 137 ] && [ $n -lt 3 ] || return 1
		n=$((n + 1))
	done
}
for command in list check status; do
	run hostportctl $command
done
export CNI_COMMAND=DEL
run hostport
if iptables-save | grep CNI-HP; then exit 1; fi
run hostportctl list
`

// handle has the programs look at a pod of another plugin's, and delete it.
func (p programs) handle(t *testing.T, native string) {
	if os.Geteuid() != 0 {
		t.Skip("a node has to be made: run it as root")
	}
	cmd := exec.Command("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-ec", life) // what hangs ends with it
	cmd.Env = []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "NATIVE=" + native, "EMULATOR=" + p.emulator, "FOLDER=" + p.folder}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"8080/tcp", "1 attachment: as recorded", "ready:       yes", "no host port is held"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("nothing says %q:\n%s", want, out)
		}
	}
}

// unpack writes the layers of an image into a directory.
func unpack(t *testing.T, image v1.Image) string {
	t.Helper()
	folder := t.TempDir()
	content := mutate.Extract(image)
	defer content.Close()
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return folder
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(folder, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.Mkdir(path, 0o755)
		} else {
			var b []byte
			if b, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, b, h.FileInfo().Mode())
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
