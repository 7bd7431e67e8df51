package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// completion returns words for the shell, from the records.
func (w *where) completion(cmd *cobra.Command, words func(*hostport.Attachment) []string) ([]string, cobra.ShellCompDirective) {
	if w.find() != nil { // the conflists have several
		return nil, cobra.ShellCompDirectiveError
	}
	all, err := w.reader(cmd).List(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var out []string
	for _, a := range all.Attachments {
		out = append(out, words(a)...)
	}
	slices.Sort(out)
	return slices.Compact(out), cobra.ShellCompDirectiveNoFileComp
}

// completePorts completes the first argument with recorded host ports.
func (w *where) completePorts(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return w.completion(cmd, func(a *hostport.Attachment) (out []string) {
		for _, m := range a.Mappings {
			out = append(out, fmt.Sprintf("%s\t%s", m.Port(), a.Pod))
		}
		return out
	})
}

func (w *where) completePods(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return w.completion(cmd, func(a *hostport.Attachment) []string {
		if a.Pod.Name == "" {
			return nil
		}
		return []string{a.Pod.String()}
	})
}

func (w *where) completeFrom(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	pods, directive := w.completePods(cmd, args, word)
	out := []string{"node"}
	for _, p := range pods {
		out = append(out, "pod:"+p)
	}
	return out, directive
}
