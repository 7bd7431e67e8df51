package main

import (
	"archive/tar"
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// writeArchive writes a tar file of the OCI layout, whose only image is called
// name. containerd, podman, skopeo and docker read it.
func writeArchive(path string, index v1.ImageIndex, name string, modified time.Time) (err error) {
	directory, err := os.MkdirTemp("", "hostport-layout-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(directory)
	root, err := layout.Write(directory, empty.Index)
	if err != nil {
		return err
	}
	if err := root.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"io.containerd.image.name":          name,
		"org.opencontainers.image.ref.name": name,
	})); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	buffered := bufio.NewWriter(file)
	if err := writeTree(tar.NewWriter(buffered), directory, modified); err != nil {
		return err
	}
	return buffered.Flush()
}

// writeTree writes the files below a directory, in the order of their names.
func writeTree(w *tar.Writer, directory string, modified time.Time) error {
	tree := os.DirFS(directory)
	err := fs.WalkDir(tree, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		content, err := fs.ReadFile(tree, path)
		if err != nil {
			return err
		}
		return writeFile(w, path, 0o644, modified, content)
	})
	return errors.Join(err, w.Close())
}
