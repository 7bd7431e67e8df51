// Command image builds the project's container image without a container
// runtime: the commands of the source tree, cross-compiled, and nothing else. It
// writes an archive in the OCI layout, which runtimes import, or pushes it to a
// registry. The same source, version and toolchain make the same digest.
//
// It is a module of its own, so that the registry client stays out of the
// product's go.mod.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// run builds the image that args ask for, and prints its digest.
func run(ctx context.Context, args []string, getenv func(string) string, out io.Writer) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	source := flags.String("source", "../..", "`directory` of the product's module")
	version := flags.String("version", "unknown", "`version` that the commands print and the image is labelled with")
	tags := flags.String("tags", "", "build `tags` of the commands")
	platforms := flags.String("platforms", "linux/amd64,linux/arm64", "`list` of platforms")
	archive := flags.String("archive", "", "`file` to write as an OCI archive")
	reference := flags.String("name", "registry.example/hostport", "`repository` that the archive is imported as; the version is its tag")
	push := flags.Bool("push", false, "push to the repository, with the credentials of docker login")
	if err := flags.Parse(args); err != nil {
		return err
	}
	created, err := sourceTime(getenv("SOURCE_DATE_EPOCH"))
	if err != nil {
		return err
	}
	tag, err := name.NewTag(*reference + ":" + *version)
	if err != nil {
		return fmt.Errorf("name of the image: %w", err)
	}
	b := builder{source: *source, version: *version, tags: *tags, created: created}
	for p := range strings.SplitSeq(*platforms, ",") {
		parsed, err := v1.ParsePlatform(p)
		if err != nil {
			return fmt.Errorf("platform %q: %w", p, err)
		}
		b.platforms = append(b.platforms, *parsed)
	}
	index, err := b.index(ctx)
	if err != nil {
		return err
	}
	if *archive != "" {
		if err := writeArchive(*archive, index, tag.Name(), created); err != nil {
			return fmt.Errorf("write %s: %w", *archive, err)
		}
	}
	if *push {
		options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
		if err := remote.WriteIndex(tag, index, options...); err != nil {
			return fmt.Errorf("push %s: %w", tag, err)
		}
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s@%s\n", tag, digest)
	return err
}

// sourceTime is the time that everything in the image has: a build's own would
// make every digest another one.
func sourceTime(epoch string) (time.Time, error) {
	if epoch == "" {
		return time.Unix(0, 0).UTC(), nil
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}
