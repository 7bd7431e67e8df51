// Command empty does nothing: the floor under every plugin that is a Go
// program.
package main

func main() {}
