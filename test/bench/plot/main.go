// Command plot generates docs/performance.md and its pictures from the results
// of the measurements in test/bench. It is a separate module, so that the
// plotting library is not a dependency of the product.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: plot RESULTS DOCS-DIRECTORY")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
}

// run writes performance.md into docs, and the pictures into its subdirectory
// performance.
func run(results, docs string) error {
	all, err := read(results)
	if err != nil {
		return err
	}
	// Measurements through a runtime have a separate file.
	through, err := read(filepath.Join(filepath.Dir(results), "runtime.jsonl"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	all = append(all, through...)
	pictures := filepath.Join(docs, "performance")
	if err := os.MkdirAll(pictures, 0o755); err != nil {
		return err
	}
	for name, draw := range map[string]func(Results, string) error{
		"control": drawControl, "data": drawData, "start": drawStart, "growth": drawGrowth, "sandbox": drawSandbox,
	} {
		if len(all.values(name, "backend")) == 0 {
			continue // not measured
		}
		if err := draw(all, pictures); err != nil {
			return err
		}
	}
	text, err := document(all)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(docs, "performance.md"), text, 0o644)
}
