package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// guestScript is executed by the guest's first process.
//
//go:embed guest.sh
var guestScript string

// initScript mounts this machine's files below an in-memory overlay.
//
//go:embed init.sh
var initScript string

// machine is a guest with the kernel of a suite.
type machine struct {
	debian, suite string
	// share is a directory that guests can write to, each in a subdirectory with
	// its name.
	share, name string
	release     string
	// accel is qemu's accelerator.
	accel string
	limit time.Duration
}

// Kernel options that save work in the guest that the tests do not need.
const lean = "quiet panic=-1 mitigations=off random.trust_cpu=on nokaslr audit=0 apparmor=0 nowatchdog init_on_alloc=0 no_timer_check"

// early holds the modules that the guest needs to mount this machine's files.
// Some are built in, or do not exist in every version.
var early = []string{"virtio_pci", "virtio_rng", "9pnet_virtio", "9p", "overlay"}

// boot starts the guest and returns the output of the tests.
func (m *machine) boot(b boot) (string, error) {
	root := filepath.Join(m.debian, m.suite, "kernel", "root")
	kernels, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return "", fmt.Errorf("%d kernels in %s: %w", len(kernels), root, errors.Join(err))
	}
	m.release = strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	own := filepath.Join(m.share, m.name)
	if err := os.MkdirAll(own, 0o755); err != nil {
		return "", err
	}
	initramfs, err := m.initramfs(own, root)
	if err != nil {
		return "", fmt.Errorf("make the initramfs of %s: %w", m.release, err)
	}
	if err := os.WriteFile(filepath.Join(own, "guest.sh"), []byte(m.script(b, root)), 0o755); err != nil {
		return "", err
	}
	log := filepath.Join(own, "log")
	_ = os.Remove(log)

	ctx, cancel := context.WithTimeoutCause(context.Background(), m.limit, fmt.Errorf("the guest was killed after %s", m.limit))
	defer cancel()
	console, err := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-machine", "q35", "-accel", m.accel, "-cpu", m.cpu(), "-smp", "1", "-m", "2G", "-nodefaults", "-no-reboot",
		"-display", "none", "-serial", "stdio", "-monitor", "none", "-nic", "none",
		"-device", "virtio-rng-pci",
		"-virtfs", "local,path=/,mount_tag=host,security_model=none,multidevs=remap,readonly=on",
		"-virtfs", "local,path="+filepath.Join(m.debian, "extra", "root")+",mount_tag=extra,security_model=none,multidevs=remap,readonly=on",
		"-virtfs", "local,path="+m.share+",mount_tag=share,security_model=none,multidevs=remap",
		"-kernel", kernels[0], "-initrd", initramfs,
		"-append", strings.TrimSpace("console=ttyS0 "+lean+" "+b.kernel),
	).CombinedOutput()
	printed, readErr := os.ReadFile(log)
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case err == nil:
		err = readErr
	}
	if err == nil && !strings.Contains(string(printed), "kernels: done") {
		err = errors.New("the guest ended before its tests")
	}
	if err != nil {
		return string(printed) + "\n" + string(console), err
	}
	return string(printed), nil
}

// cpu returns the processor model of a guest. Emulating a newer one costs more
// than its features save.
func (m *machine) cpu() string {
	if m.accel == "tcg" {
		return "Nehalem-v1"
	}
	return "max"
}

// script returns the script that the guest runs.
func (m *machine) script(b boot, root string) string {
	var runs strings.Builder
	for _, r := range b.runs {
		fmt.Fprintf(&runs, "run %s '%s'\n", r.program, r.pattern)
	}
	return strings.NewReplacer(
		"@MODULES@", filepath.Join(root, "lib", "modules", m.release), "@RELEASE@", m.release,
		"@TOOLS@", filepath.Join(m.debian, m.suite, "tools"), "@PHASE@", b.phase,
		"@SHARE@", "/share/"+m.name, "@BUILT@", "/share/built", "@RUNS@\n", runs.String(),
		"@FIREWALLD@", filepath.Join(m.debian, "trixie", "firewalld", "bin"),
	).Replace(guestScript)
}

// initramfs packs busybox, the early modules with their dependencies, and the
// script.
func (m *machine) initramfs(own, root string) (string, error) {
	dir := filepath.Join(own, "initramfs")
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	file := dir + ".cpio"
	pack := `set -e
mkdir -p "$1/modules"
cp "$(command -v busybox)" "$1/busybox"
for m in $4; do
	modprobe -d "$2" -S "$3" --show-depends "$m" 2>/dev/null || true
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r ko; do
	n=$(printf %02d "$(ls "$1/modules" | wc -l)")
	case $ko in
	*.xz) xz -dc "$ko" >"$1/modules/$n.ko" ;;
	*.zst) zstd -qdc "$ko" >"$1/modules/$n.ko" ;;
	*) cp "$ko" "$1/modules/$n.ko" ;;
	esac
done
cd "$1"
find . | cpio -o -H newc --quiet >"$5"`
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "init"), []byte(strings.ReplaceAll(initScript, "@SHARE@", "/share/"+m.name)), 0o755); err != nil {
		return "", err
	}
	out, err := exec.CommandContext(context.Background(), "sh", "-c", pack, "pack",
		dir, root, m.release, strings.Join(early, " "), file).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return file, nil
}
