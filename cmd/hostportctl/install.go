package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hostport-cni/hostport/internal/install"
	"github.com/hostport-cni/hostport/internal/node"
)

func newInstall(w *where) *cobra.Command {
	var o install.Options
	var settings []string
	var mode, output string
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Put the plugin into a network's configuration",
		Long: "Put the plugin into a network's configuration: the binaries beside this one into\n" +
			"--bin-dir, and an entry into the network's conflist. Of the conflist nothing else\n" +
			"changes; as it was, it is kept beside it. Running it again does what is left to do.",
		Example: "  hostportctl install --replace-portmap --dry-run\n" +
			"  hostportctl install --network podnet --config backend=nftables",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := knownOutput(output, "text", "json"); err != nil {
				return err
			}
			for _, s := range settings {
				setting, err := install.ParseSetting(s)
				if err != nil {
					return fmt.Errorf("--config %w", err)
				}
				o.Settings = append(o.Settings, setting)
			}
			o.Mode = install.Mode(mode)
			var err error
			if o.Binaries, err = binaries(); err != nil {
				return err
			}
			var done installation
			if done.Report, err = install.Run(cmd.Context(), o); err == nil {
				done.Adoption, err = adoptInstalled(cmd, w, o, done.Report.Networks)
			}
			done.failed = err != nil
			return errors.Join(writeInstallation(cmd.OutOrStdout(), done, output), whichDirectory(err))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.BinDir, "bin-dir", install.DefaultBinDir, "`directory` of the runtime's CNI plugins")
	flags.StringVar(&o.ConfDir, "conf-dir", install.DefaultConfDir, "`directory` of the runtime's network configurations")
	flags.StringVar(&o.Network, "network", "", "`name` of the network (default: the one that the runtime takes)")
	flags.StringVar(&mode, "mode", string(install.Conflist), "where the entry goes: conflist, or dropin, a file that libcni 1.3 reads beside it")
	flags.BoolVar(&o.ReplacePortmap, "replace-portmap", false, "take the place of portmap")
	flags.StringArrayVar(&settings, "config", nil, "a key of the entry, as `KEY=VALUE`; may be repeated")
	flags.StringVar(&w.cache, "cache-dir", "", "libcni's cache `directory`, for the pods that portmap served (default /var/lib/cni)")
	flags.BoolVar(&o.DryRun, "dry-run", false, "show what would be done")
	flags.BoolVar(&o.Wait, "wait", false, "wait until the network's configuration is there")
	addOutput(cmd, &output)
	return cmd
}

// installation is what a command did to the configurations and to the pods that
// portmap served.
type installation struct {
	*install.Report
	// Adoption is nil if no adoption was tried.
	Adoption *node.Adoption `json:"adoption,omitempty"`
	failed   bool
}

// whichDirectory adds to an error about a directory which flags set it.
func whichDirectory(err error) error {
	switch {
	case errors.Is(err, install.ErrNoNetwork):
		return fmt.Errorf("%w: --conf-dir names another directory", err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: --bin-dir and --conf-dir name the runtime's directories", err)
	}
	return err
}

// adoptInstalled adopts the pods that portmap served in the network of a report.
func adoptInstalled(cmd *cobra.Command, w *where, o install.Options, networks []string) (*node.Adoption, error) {
	installed := where{dir: w.dir, conf: o.ConfDir, lock: w.lock, cache: w.cache}
	if err := installed.find(); err != nil {
		return nil, err
	}
	got, err := installed.adopter(cmd, o.DryRun).Adopt(cmd.Context(), networks[0], o.DryRun)
	if err != nil {
		return nil, fmt.Errorf("adopt the pods of network %s: %w", networks[0], err)
	}
	return got, nil
}

func addOutput(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", "text", "`format`: text or json")
}

// programs returns the names of the programs to install.
func programs() []string { return []string{"hostport", "hostportctl"} }

// binaries returns the programs in the directory of this one.
func binaries() ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range programs() {
		path := filepath.Join(filepath.Dir(self), name)
		switch _, err := os.Stat(path); {
		case err == nil:
			out = append(out, path)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return out, nil
}

// writeInstallation prints a report, if there is one, in a format of the flag --output.
func writeInstallation(w io.Writer, r installation, output string) error {
	if r.Report == nil {
		return nil
	}
	if output == "json" {
		return writeJSON(w, r)
	}
	var b strings.Builder
	for _, text := range r.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", text)
	}
	for _, c := range r.Changes {
		fmt.Fprintf(&b, "%s %s", c.Action, c.Path)
		if c.Detail != "" {
			fmt.Fprintf(&b, " (%s)", c.Detail)
		}
		b.WriteByte('\n')
		if r.DryRun && c.Action == install.Write {
			b.WriteString(strings.TrimRight(c.Content, "\n") + "\n")
		}
	}
	if r.Adoption != nil {
		b.WriteString(adoptionText(r.Adoption))
	}
	switch {
	case r.failed: // the error says it
	case len(r.Changes) == 0 && (r.Adoption == nil || r.Adoption.Empty()):
		b.WriteString("nothing to do\n")
	case r.DryRun:
		b.WriteString("nothing was changed: a dry run\n")
	}
	_, err := io.WriteString(w, printable(b.String()))
	return err
}
