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

	"github.com/hostport-cni/hostport/test/world"
)

// patience bounds every wait. It is far beyond what a loaded machine or a guest
// in software needs: no test passes or fails by time alone.
const patience = 3 * time.Minute

// daemon is a containerd with everything of its own, on the node of a World.
type daemon struct {
	release
	w       *world.World
	dir     string
	confDir string
	socket  string
	process *exec.Cmd
	exited  chan struct{} // closed when process has ended

	runtime cri.RuntimeServiceClient
	images  cri.ImageServiceClient
}

// startDaemon starts containerd with one network, imports the image and waits
// until the CRI says that it is ready. The test's end stops it.
func startDaemon(t *testing.T, r release, w *world.World, conflist []byte) *daemon {
	t.Helper()
	dir, err := os.MkdirTemp("/var/lib", "containerd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	name := filepath.Base(dir)
	d := &daemon{
		release: r, w: w, dir: dir,
		confDir: filepath.Join(dir, "net.d"),
		socket:  filepath.Join("/run", name, "containerd.sock"),
	}
	for path, content := range map[string]string{
		d.configPath(): r.config(t, dir, name, d.socket, w.PluginDir),
		filepath.Join(d.confDir, "10-podnet.conflist"): string(conflist),
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
			t.Logf("containerd's last words:\n%s", d.tail(25))
		}
		d.stop(t)
	})
	conn, err := grpc.NewClient("unix://"+d.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	d.runtime, d.images = cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)

	d.waitReady(t)
	w.Node.Command(r.program("ctr"), "--address", d.socket, "--namespace", "k8s.io", "images", "import", program("image.tar"))
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

func (d *daemon) configPath() string { return filepath.Join(d.dir, "config.toml") }
func (d *daemon) logPath() string    { return filepath.Join(d.dir, "log") }

func (d *daemon) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(d.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	d.process = exec.Command(d.program("containerd"), "--config", d.configPath())
	d.process.Env = append(os.Environ(), "PATH="+d.path(d.w))
	d.process.Stdout, d.process.Stderr = log, log
	// A child inherits the namespace of the thread that starts it.
	if err := d.w.Node.Try(d.process.Start); err != nil {
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
			t.Fatalf("containerd ended: %v\n%s", d.process.ProcessState, d.tail(25))
		default:
		}
		return d.ready(t)
	})
}

// ready asks for the runtime's state, as the kubelet does every few seconds. The
// error has the condition that is not met. Other conditions than these two are
// advice, such as one about control groups of version 1.
func (d *daemon) ready(t *testing.T) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	response, err := d.runtime.Status(ctx, &cri.StatusRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	for _, c := range response.Status.Conditions {
		if !c.Status && (c.Type == "RuntimeReady" || c.Type == "NetworkReady") {
			return fmt.Errorf("%s: %s", c.Type, c.Message)
		}
	}
	return nil
}

// waitForNetwork waits until containerd has loaded a configuration in which the
// text stands: it reads its directory when that changes.
func (d *daemon) waitForNetwork(t *testing.T, text string) {
	t.Helper()
	eventually(t, "containerd loads "+text, func() error {
		response, err := d.runtime.Status(t.Context(), &cri.StatusRequest{Verbose: true})
		if err == nil && !strings.Contains(response.Info["cniconfig"], text) {
			err = errors.New(response.Info["cniconfig"])
		}
		return err
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
	content, err := os.ReadFile(d.logPath())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// eventually repeats check until it succeeds.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
