package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostport-cni/hostport/internal/install"
	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/internal/node"
)

// where is what all commands need to know about the node.
type where struct {
	dir   string // of the state
	conf  string // of the conflists
	cache string // of libcni
	lock  time.Duration
}

func newRoot() *cobra.Command {
	var w where
	root := &cobra.Command{
		Use:   "hostportctl",
		Short: "Show and mend the host ports of this node",
		Long: "Show and mend the host ports of this node.\n\n" +
			"Exit status: 0 done, 1 the node differs from what it should be, 2 the command failed.",
		SilenceUsage:      true,
		SilenceErrors:     true,
		DisableAutoGenTag: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if !needsNode(cmd) {
				return nil
			}
			if err := w.check(cmd); err != nil {
				return err
			}
			if cmd.LocalNonPersistentFlags().Lookup("conf-dir") != nil {
				return nil // install and uninstall look in a --conf-dir of their own
			}
			return w.find()
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&w.dir, "data-dir", "", "state `directory` (default: dataDir of the conflists in --conf-dir)")
	flags.StringVar(&w.conf, "conf-dir", install.DefaultConfDir, "`directory` of the runtime's network configurations")
	flags.DurationVar(&w.lock, "lock-timeout", netconf.DefaultLockTimeout, "how long to wait for a plugin that is at work")
	root.AddCommand(
		newExplain(&w), newTrace(&w), newDoctor(&w), newList(&w), newCheck(&w), newSync(&w), newPrune(&w), newStatus(&w),
		newAdopt(&w), newInstall(&w), newUninstall(&w), newVersion())
	if man := newMan(root); man != nil {
		root.AddCommand(man)
	}
	return root
}

// find sets the state directory to that of the conflists, unless it was given.
func (w *where) find() error {
	dirs, _ := w.dataDirs(w.conf) // an unreadable file may be another plugin's
	if len(dirs) > 1 {
		return fmt.Errorf("the conflists in %s have several state directories: choose one of %s with --data-dir", w.conf, strings.Join(dirs, ", "))
	}
	w.dir = dirs[0]
	return nil
}

// dataDirs returns the state directory that was given, else those of the conflists, else
// the default one. An error says what could not be read if no conflist names one.
func (w *where) dataDirs(conf string) ([]string, error) {
	if w.dir != "" {
		return []string{w.dir}, nil
	}
	dirs, err := install.DataDirs(conf)
	if len(dirs) > 0 {
		return dirs, nil
	}
	return []string{netconf.DefaultDataDir}, err
}

// unlessNoState returns err, unless it says that the node has no state and no
// rules either: it prints that, which is no failure.
func unlessNoState(cmd *cobra.Command, err error) error {
	missing, ok := errors.AsType[*node.NoStateError](err)
	if !ok || len(missing.Owners) > 0 || missing.Unread != nil {
		return err
	}
	fmt.Fprintln(cmd.ErrOrStderr(), printable(missing.Error()))
	return nil
}

// records returns the records. If they are not of this boot and version, or the node
// has no state, it says so on standard error.
func (w *where) records(cmd *cobra.Command) (s *node.Snapshot, there bool, err error) {
	s, err = w.reader(cmd).List(cmd.Context())
	there = err == nil
	if err = unlessNoState(cmd, err); err == nil {
		noteOther(cmd, s)
	}
	return s, there, err
}

// noteOther says on standard error why the records are not this program's, if they are not.
func noteOther(cmd *cobra.Command, s *node.Snapshot) {
	if s.Other != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), printable(s.Other.Error()))
	}
}

// reader returns the node for a command that changes nothing. Records of another
// version or boot are converted by the plugin, or by a command that changes something.
func (w *where) reader(cmd *cobra.Command) *node.Node {
	n := w.node(cmd)
	n.ReadOnly = true
	return n
}

// node returns the node whose state is in the requested directory. The node logs
// to the command's standard error.
func (w *where) node(cmd *cobra.Command) *node.Node {
	// slog quotes unprintable text.
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{
		Level: slog.LevelWarn,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{} // the time is now
			}
			return a
		},
	}))
	return &node.Node{Dir: w.dir, CacheDir: w.cache, Timeout: w.lock, Log: log}
}
