package kubernetes

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
)

// imageName has a host that no registry answers for: the image can only come
// from the archive.
const imageName = "hostport.invalid/answer:1"

// descriptor is the OCI image specification's, as far as it is needed here.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// writeImage writes an OCI image archive of one layer with one static program.
func writeImage(out io.Writer, program string) error {
	binary, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	var layer bytes.Buffer
	files := tar.NewWriter(&layer)
	if err := writeTar(files, "answer", 0o755, binary); err != nil {
		return err
	}
	if err := files.Close(); err != nil {
		return err
	}

	archive := tar.NewWriter(out)
	blob := func(mediaType string, content []byte) (descriptor, error) {
		sum := fmt.Sprintf("%x", sha256.Sum256(content))
		d := descriptor{MediaType: mediaType, Digest: "sha256:" + sum, Size: len(content)}
		return d, writeTar(archive, "blobs/sha256/"+sum, 0o644, content)
	}
	layerBlob, err := blob("application/vnd.oci.image.layer.v1.tar", layer.Bytes())
	if err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"Entrypoint": []string{"/answer"}, "Cmd": []string{"pause"}},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{layerBlob.Digest}},
	})
	if err != nil {
		return err
	}
	configBlob, err := blob("application/vnd.oci.image.config.v1+json", config)
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.manifest.v1+json",
		"config":        configBlob,
		"layers":        []descriptor{layerBlob},
	})
	if err != nil {
		return err
	}
	manifestBlob, err := blob("application/vnd.oci.image.manifest.v1+json", manifest)
	if err != nil {
		return err
	}
	manifestBlob.Annotations = map[string]string{"io.containerd.image.name": imageName}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []descriptor{manifestBlob}})
	if err != nil {
		return err
	}
	if err := writeTar(archive, "index.json", 0o644, index); err != nil {
		return err
	}
	if err := writeTar(archive, "oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	return archive.Close()
}

func writeTar(archive *tar.Writer, name string, mode int64, content []byte) error {
	header := &tar.Header{Name: name, Mode: mode, Size: int64(len(content)), Typeflag: tar.TypeReg}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := archive.Write(content)
	return err
}
