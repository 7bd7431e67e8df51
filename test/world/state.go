package world

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

// State returns the content of the plugin's state file by key, prefixed with
// the names of its buckets. It is empty if there is no file.
func (w *World) State() map[string]string {
	w.t.Helper()
	content := map[string]string{}
	path := filepath.Join(w.DataDir, "state.db")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return content
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			return collect(content, string(name), b)
		})
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return content
}

// collect copies a bucket and its nested buckets.
func collect(content map[string]string, prefix string, b *bolt.Bucket) error {
	return b.ForEach(func(k, v []byte) error {
		name := prefix + "/" + string(k)
		if v == nil {
			return collect(content, name, b.Bucket(k))
		}
		content[name] = string(v)
		return nil
	})
}

// SetState overwrites one value of the state file.
func (w *World) SetState(bucket, key, value string) {
	w.t.Helper()
	db, err := bolt.Open(filepath.Join(w.DataDir, "state.db"), 0o600, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	err = db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		if b == nil || b.Get([]byte(key)) == nil {
			return fmt.Errorf("the state has no %s/%s", bucket, key)
		}
		return b.Put([]byte(key), []byte(value))
	})
	if err != nil {
		w.t.Fatal(err)
	}
}
