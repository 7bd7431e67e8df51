package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// daemon is a containerd with everything of its own.
type daemon struct {
	config  string
	socket  string
	log     string
	process *exec.Cmd
	exited  chan struct{} // closed when process has ended

	conn    *grpc.ClientConn
	runtime cri.RuntimeServiceClient
	images  cri.ImageServiceClient
}

// configuration is containerd 1.6's. There is no other sandbox image than the
// test's, and control groups of the room are found by the sandboxes' parent.
const configuration = `version = 2
root = "%[1]s/root"
state = "/run/%[2]s/state"
[grpc]
  address = "%[3]s"
[ttrpc]
  address = "%[3]s.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "%[1]s/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "%[4]s"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "%[5]s"
    conf_dir = "%[1]s/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
`

// startDaemon starts containerd with one network, imports the image and waits
// until the CRI says that it is ready. The test's end stops it.
func startDaemon(t *testing.T, name, conflist string) *daemon {
	t.Helper()
	dir := filepath.Join("/var/lib", name)
	d := &daemon{
		config: filepath.Join(dir, "config.toml"),
		socket: filepath.Join("/run", name, "containerd.sock"),
		log:    filepath.Join(dir, "log"),
	}
	text := fmt.Sprintf(configuration, dir, name, d.socket, image, binDir())
	for path, content := range map[string]string{
		d.config: text,
		filepath.Join(dir, "net.d", "10-"+name+".conflist"): conflist,
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	d.start(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("containerd's last words:\n%s", d.tail(40))
		}
		d.stop(t)
	})
	conn, err := grpc.NewClient("unix://"+d.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	d.conn, d.runtime, d.images = conn, cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)

	d.waitReady(t)
	mustRun(t, "ctr", "--address", d.socket, "--namespace", "k8s.io", "images", "import", imagePath())
	// The CRI learns of the import by an event.
	eventually(t, "image", func() error {
		status, err := d.images.ImageStatus(t.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: image}})
		if err == nil && status.Image == nil {
			err = errors.New("not there yet")
		}
		return err
	})
	return d
}

func (d *daemon) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	d.process = exec.Command("containerd", "--config", d.config)
	d.process.Stdout, d.process.Stderr = log, log
	if err := d.process.Start(); err != nil {
		t.Fatal(err)
	}
	process, exited := d.process, make(chan struct{})
	go func() {
		defer close(exited)
		_ = process.Wait() // how it ended is in its ProcessState
	}()
	d.exited = exited
}

func (d *daemon) waitReady(t *testing.T) {
	t.Helper()
	eventually(t, "containerd", func() error {
		select {
		case <-d.exited:
			t.Fatalf("containerd ended: %v\n%s", d.process.ProcessState, d.tail(40))
		default:
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		response, err := d.runtime.Status(ctx, &cri.StatusRequest{}, grpc.WaitForReady(true))
		if err != nil {
			return err
		}
		for _, condition := range response.Status.Conditions {
			if !condition.Status {
				return fmt.Errorf("%s: %s", condition.Type, condition.Message)
			}
		}
		return nil
	})
}

// kill ends containerd as a crash would: the pods' shims live on.
func (d *daemon) kill(t *testing.T) {
	t.Helper()
	d.end(t, syscall.SIGKILL)
}

func (d *daemon) stop(t *testing.T) {
	t.Helper()
	d.end(t, syscall.SIGTERM)
}

func (d *daemon) end(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := d.process.Process.Signal(signal); err != nil {
		t.Errorf("signal containerd: %v", err)
		return
	}
	select {
	case <-d.exited:
	case <-time.After(patience):
		_ = d.process.Process.Kill()
		t.Errorf("containerd did not end on %v", signal)
	}
}

// tail returns the last lines of containerd's log.
func (d *daemon) tail(lines int) string {
	content, err := os.ReadFile(d.log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
