package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// source is the product, from here.
const source = "../.."

// TestImage builds the image once, and looks at it in three ways.
func TestImage(t *testing.T) {
	archive, digest := build(t, source)
	t.Run("reproducible", func(t *testing.T) { checkReproducible(t, archive, digest) })
	t.Run("content", func(t *testing.T) { checkContent(t, archive, digest) })
	t.Run("runs", func(t *testing.T) { checkRuns(t, platforms(t, archive)) })
}

// checkReproducible builds from a copy of the source, at another place and time,
// and wants the same archive, byte for byte.
func checkReproducible(t *testing.T, first, digest string) {
	t.Helper()
	copied := t.TempDir()
	for _, path := range []string{"cmd", "internal", "pkg"} {
		if err := os.CopyFS(filepath.Join(copied, path), os.DirFS(filepath.Join(source, path))); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"go.mod", "go.sum"} {
		if err := os.WriteFile(filepath.Join(copied, file), read(t, filepath.Join(source, file)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	second, again := build(t, copied)
	if digest != again {
		t.Errorf("two builds of one source are %s and %s", digest, again)
	}
	if !bytes.Equal(read(t, first), read(t, second)) {
		t.Error("two archives of one source differ")
	}
}

// checkContent unpacks the image of each platform.
func checkContent(t *testing.T, archive, digest string) {
	t.Helper()
	index := open(t, archive)
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if got := manifest.Manifests[0].Annotations["io.containerd.image.name"]; got != "registry.example/hostport:v1.2.3" {
		t.Errorf("the archive calls it %q", got)
	}
	if got := manifest.Manifests[0].Digest.String(); got != digest {
		t.Errorf("printed digest %s, the archive's is %s", digest, got)
	}
	images := platforms(t, archive)
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	if len(images) != len(machines) {
		t.Fatalf("%d platforms, want %d", len(images), len(machines))
	}
	for arch, image := range images {
		t.Run(arch, func(t *testing.T) { checkImage(t, image, machines[arch]) })
	}
}

// platforms returns the images of an archive by their architecture.
func platforms(t *testing.T, archive string) map[string]v1.Image {
	t.Helper()
	index := open(t, archive)
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	inner, err := index.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	list, err := inner.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	images := map[string]v1.Image{}
	for _, m := range list.Manifests {
		if images[m.Platform.Architecture], err = inner.Image(m.Digest); err != nil {
			t.Fatal(err)
		}
	}
	return images
}

// checkImage wants the entrypoint to be there, and nothing but static programs.
func checkImage(t *testing.T, image v1.Image, machine elf.Machine) {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]bool{}
	content := mutate.Extract(image)
	defer content.Close()
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		files["/"+h.Name] = true
		if h.Mode != 0o755 || h.Uid != 0 || h.Gid != 0 {
			t.Errorf("%s: mode %o, owner %d:%d", h.Name, h.Mode, h.Uid, h.Gid)
		}
		checkProgram(t, h.Name, r, machine)
	}
	for _, want := range []string{config.Config.Entrypoint[0], "/bin/hostport", "/bin/hostportctl"} {
		if !files[want] {
			t.Errorf("%s is not in the image", want)
		}
	}
	if dirs, err := os.ReadDir(source + "/cmd"); err != nil || len(dirs) != len(files) {
		t.Errorf("the image has %v, the product %d commands (%v)", files, len(dirs), err)
	}
	if env := strings.Join(config.Config.Env, " "); env != "PATH=/bin" {
		t.Errorf("environment %q", env)
	}
}

// checkProgram wants a program for the machine that needs no loader.
func checkProgram(t *testing.T, path string, r io.Reader, machine elf.Machine) {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	program, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if program.Machine != machine {
		t.Errorf("%s is for %s", path, program.Machine)
	}
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			t.Errorf("%s needs a dynamic loader", path)
		}
	}
	if !bytes.Contains(b, []byte("v1.2.3")) {
		t.Errorf("%s does not know its version", path)
	}
}

// TestPush pushes to a registry on this machine, and wants there what was built.
func TestPush(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	repository := strings.TrimPrefix(server.URL, "http://") + "/hostport"
	var out bytes.Buffer
	err := run(t.Context(), []string{"-source", source, "-version", "v1.2.3", "-platforms", "linux/amd64", "-name", repository, "-push"}, os.Getenv, &out)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(repository + ":v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	descriptor, err := remote.Head(tag)
	if err != nil {
		t.Fatal(err)
	}
	if want := tag.String() + "@" + descriptor.Digest.String() + "\n"; out.String() != want {
		t.Errorf("printed %q, pushed %q", out.String(), want)
	}
}

// TestRefused wants errors that name what is wrong.
func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		name, epoch, want string
		args              []string
	}{
		{"time", "yesterday", "SOURCE_DATE_EPOCH", nil},
		{"version", "", "name of the image", []string{"-version", "a b"}},
		{"platform", "", `platform "a/b/c/d"`, []string{"-platforms", "a/b/c/d"}},
		{"source", "", "go build", []string{"-source", t.TempDir()}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := run(t.Context(), tt.args, func(string) string { return tt.epoch }, io.Discard)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// build returns the archive and the digest.
func build(t *testing.T, from string) (string, string) {
	t.Helper()
	archive := filepath.Join(t.TempDir(), "image.tar")
	var out bytes.Buffer
	err := run(t.Context(), []string{"-source", from, "-version", "v1.2.3", "-archive", archive},
		func(string) string { return "1700000000" }, &out)
	if err != nil {
		t.Fatal(err)
	}
	_, digest, _ := strings.Cut(strings.TrimSpace(out.String()), "@")
	return archive, digest
}

// open unpacks an archive.
func open(t *testing.T, archive string) v1.ImageIndex {
	t.Helper()
	directory := t.TempDir()
	for r := tar.NewReader(bytes.NewReader(read(t, archive))); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(directory, h.Name)
		b, err := io.ReadAll(r)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(to), 0o755)
		}
		if err == nil {
			err = os.WriteFile(to, b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	index, err := layout.ImageIndexFromPath(directory)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
