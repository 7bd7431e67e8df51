// Command empty does nothing: it is the lower bound for every plugin written in
// Go.
package main

func main() {}
