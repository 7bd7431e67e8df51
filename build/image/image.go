package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	// imageBin is the only directory of the image. The agent installs what lies
	// beside it, and kubectl exec finds the commands there.
	imageBin   = "bin"
	entrypoint = "hostport-agent"
)

// builder is what an image is made from.
type builder struct {
	source    string
	version   string
	tags      string
	created   time.Time
	platforms []v1.Platform
}

// index builds an image for each platform.
func (b *builder) index(ctx context.Context) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, platform := range b.platforms {
		image, err := b.image(ctx, platform)
		if err != nil {
			return nil, fmt.Errorf("image for %s: %w", platform, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        image,
			Descriptor: v1.Descriptor{Platform: &platform},
		})
	}
	return index, nil
}

// image has one layer, with the commands, on top of nothing: no shell, no C
// library, no certificates, nothing to patch but our own programs.
func (b *builder) image(ctx context.Context, platform v1.Platform) (v1.Image, error) {
	layer, err := b.layer(ctx, platform)
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.Append(image, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: v1.Time{Time: b.created}, CreatedBy: "build/image", Comment: "the commands"},
	})
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = platform.OS, platform.Architecture, platform.Variant
	config.Created = v1.Time{Time: b.created}
	config.Config = v1.Config{
		Entrypoint: []string{"/" + imageBin + "/" + entrypoint},
		Env:        []string{"PATH=/" + imageBin},
		Labels: map[string]string{
			"org.opencontainers.image.title":       "hostport",
			"org.opencontainers.image.description": "Host ports for Kubernetes pods: CNI plugin, node agent and operator's tool",
			"org.opencontainers.image.licenses":    "Apache-2.0",
			"org.opencontainers.image.version":     b.version,
		},
	}
	return mutate.ConfigFile(image, config)
}

func (b *builder) layer(ctx context.Context, platform v1.Platform) (v1.Layer, error) {
	binaries, err := os.MkdirTemp("", "hostport-image-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(binaries)
	if err := b.compile(ctx, platform, binaries); err != nil {
		return nil, err
	}
	content, err := tarOf(binaries, b.created)
	if err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
}

// compile builds every command of the product, as make build does.
func (b *builder) compile(ctx context.Context, platform v1.Platform, to string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-tags", b.tags,
		"-ldflags", "-s -w -X main.build="+b.version, "-o", to+"/", "./cmd/...")
	cmd.Dir = b.source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+platform.OS, "GOARCH="+platform.Architecture, "GOFLAGS=")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build: %w", err)
	}
	return nil
}

// tarOf packs the files of a directory, in the order of their names.
func tarOf(directory string, modified time.Time) ([]byte, error) {
	entries, err := os.ReadDir(directory)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	header := &tar.Header{Typeflag: tar.TypeDir, Name: imageBin + "/", Mode: 0o755, ModTime: modified}
	if err := w.WriteHeader(header); err != nil {
		return nil, err
	}
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(directory, e.Name()))
		if err != nil {
			return nil, err
		}
		if err := writeFile(w, imageBin+"/"+e.Name(), 0o755, modified, content); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

func writeFile(w *tar.Writer, path string, mode int64, modified time.Time, content []byte) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: mode, Size: int64(len(content)), ModTime: modified}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}
