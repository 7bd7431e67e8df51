package containerd

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"runtime"
)

// image is the only image in the room: the sandboxes' pause process and the
// pods' server alike. The name is never looked up in a registry.
const image = "hostport.test/peer:1"

// document is a JSON object of the OCI image specification.
type document map[string]any

// archive is an OCI image layout being written as a tar stream.
type archive struct {
	*tar.Writer
}

// writeImage writes an image of one layer with one file, the program peer, as
// an OCI archive.
func writeImage(path, peer string) error {
	program, err := os.ReadFile(peer)
	if err != nil {
		return err
	}
	var layer bytes.Buffer
	files := archive{tar.NewWriter(&layer)}
	if err := files.file("peer", 0o755, program); err != nil {
		return err
	}
	if err := files.Close(); err != nil {
		return err
	}

	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	layout := archive{tar.NewWriter(out)}
	if err := layout.write(layer.Bytes()); err != nil {
		return err
	}
	if err := layout.Close(); err != nil {
		return err
	}
	return out.Close()
}

// write adds the blobs of an image with the given layer, and the index that
// names it.
func (a archive) write(layer []byte) error {
	layerRef, err := a.blob("application/vnd.oci.image.layer.v1.tar", layer)
	if err != nil {
		return err
	}
	configRef, err := a.json("application/vnd.oci.image.config.v1+json", document{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       document{"Entrypoint": []string{"/peer"}},
		"rootfs":       document{"type": "layers", "diff_ids": []any{layerRef["digest"]}},
	})
	if err != nil {
		return err
	}
	manifestRef, err := a.json("application/vnd.oci.image.manifest.v1+json", document{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.manifest.v1+json",
		"config":        configRef,
		"layers":        []any{layerRef},
	})
	if err != nil {
		return err
	}
	// containerd takes the image's name from this annotation.
	manifestRef["annotations"] = document{"io.containerd.image.name": image}
	index, err := json.Marshal(document{"schemaVersion": 2, "manifests": []any{manifestRef}})
	if err != nil {
		return err
	}
	if err := a.file("index.json", 0o644, index); err != nil {
		return err
	}
	return a.file("oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`))
}

func (a archive) json(mediaType string, value document) (document, error) {
	content, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	return a.blob(mediaType, content)
}

// blob adds content under its digest and returns its descriptor.
func (a archive) blob(mediaType string, content []byte) (document, error) {
	sum := sha256.Sum256(content)
	digest := hex.EncodeToString(sum[:])
	if err := a.file("blobs/sha256/"+digest, 0o644, content); err != nil {
		return nil, err
	}
	return document{"mediaType": mediaType, "digest": "sha256:" + digest, "size": len(content)}, nil
}

func (a archive) file(name string, mode int64, content []byte) error {
	header := &tar.Header{Name: name, Mode: mode, Size: int64(len(content)), Typeflag: tar.TypeReg}
	if err := a.WriteHeader(header); err != nil {
		return err
	}
	_, err := a.Write(content)
	return err
}
