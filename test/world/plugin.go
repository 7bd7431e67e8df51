package world

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// Invocation is one start of a plugin, without defaults: empty fields are
// absent from the plugin's environment.
type Invocation struct {
	// Plugin is "hostport" when empty.
	Plugin      string
	Command     string
	ContainerID string
	IfName      string
	Netns       string
	Args        string
	Stdin       []byte
	// Env is added to the environment, and overrides everything else.
	Env []string
}

// Output is the output and exit code of a plugin.
type Output struct {
	Stdout   []byte
	Stderr   []byte
	ExitCode int
}

// Error returns the CNI error that the plugin printed, or nil if it exited with
// 0. It fails if exit code and stdout disagree, as a runtime would.
func (o Output) Error() (*types.Error, error) {
	var e types.Error
	err := json.Unmarshal(o.Stdout, &e)
	switch {
	case o.ExitCode == 0:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("exit code %d without a CNI error on stdout: %q, stderr %q", o.ExitCode, o.Stdout, o.Stderr)
	case e.Code == 0 || e.Msg == "":
		return nil, fmt.Errorf("CNI error without code or message: %s", o.Stdout)
	}
	return &e, nil
}

// Invoke starts a plugin on the node.
func (w *World) Invoke(i Invocation) Output {
	w.t.Helper()
	if i.Plugin == "" {
		i.Plugin = "hostport"
	}
	env := []string{"PATH=" + w.ToolDir, "CNI_PATH=" + w.PluginDir}
	for key, value := range map[string]string{
		"CNI_COMMAND": i.Command, "CNI_CONTAINERID": i.ContainerID, "CNI_IFNAME": i.IfName,
		"CNI_NETNS": i.Netns, "CNI_ARGS": i.Args,
	} {
		if value != "" {
			env = append(env, key+"="+value)
		}
	}
	out, err := w.run(context.Background(), filepath.Join(w.PluginDir, i.Plugin), i.Stdin, append(env, i.Env...))
	if err != nil {
		w.t.Fatalf("start plugin %s: %v", i.Plugin, err)
	}
	return out
}

// Ctl runs the operator's tool hostportctl on the node, on the World's state.
func (w *World) Ctl(args ...string) Output {
	w.t.Helper()
	args = append([]string{"--data-dir", w.DataDir}, args...)
	out, err := w.run(context.Background(), filepath.Join(w.PluginDir, "hostportctl"), nil, []string{"PATH=" + w.ToolDir}, args...)
	if err != nil {
		w.t.Fatalf("start hostportctl: %v", err)
	}
	return out
}

// CtlIn runs hostportctl through another program, which may enter new
// namespaces first.
func (w *World) CtlIn(program []string, args ...string) Output {
	w.t.Helper()
	args = append([]string{filepath.Join(w.PluginDir, "hostportctl"), "--data-dir", w.DataDir}, args...)
	args = append(slices.Clone(program[1:]), args...)
	path, err := exec.LookPath(program[0])
	if err != nil {
		w.t.Fatal(err)
	}
	out, err := w.run(context.Background(), path, nil, []string{"PATH=" + w.ToolDir + ":" + os.Getenv("PATH")}, args...)
	if err != nil {
		w.t.Fatalf("start %s: %v", program[0], err)
	}
	return out
}

// run runs a program in the node's namespace. A non-zero exit code is not an
// error.
func (w *World) run(ctx context.Context, program string, stdin []byte, env []string, args ...string) (Output, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	start := cmd.Start
	if w.hidden && strings.HasPrefix(filepath.Base(program), "hostport") {
		start = func() error { return withoutTable(cmd.Start) }
	}
	// The child inherits the namespace of the thread that starts it.
	if err := w.Node.Try(start); err != nil {
		return Output{}, err
	}
	err := cmd.Wait()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return Output{}, err
	}
	return Output{Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), ExitCode: cmd.ProcessState.ExitCode()}, nil
}

var _ invoke.Exec = (*World)(nil)

// ExecPlugin runs a plugin on the node for libcni.
func (w *World) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
	kept := []string{"PATH=" + w.ToolDir}
	for _, kv := range env {
		if strings.HasPrefix(kv, "CNI_") {
			kept = append(kept, kv)
		}
	}
	out, err := w.run(ctx, path, stdin, kept)
	if err != nil {
		return nil, err
	}
	if len(out.Stderr) > 0 {
		w.t.Logf("%s: %s", filepath.Base(path), bytes.TrimSpace(out.Stderr))
	}
	cniErr, err := out.Error()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	if cniErr != nil {
		return nil, cniErr
	}
	return out.Stdout, nil
}

// FindInPath finds a plugin for libcni.
func (w *World) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

// Decode reads a plugin's answer to VERSION for libcni.
func (w *World) Decode(jsonBytes []byte) (version.PluginInfo, error) {
	return (&version.PluginDecoder{}).Decode(jsonBytes)
}
