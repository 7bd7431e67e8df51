//go:build !faultpoints

package fault

// Point does nothing in the shipped binary.
func Point(string) {}
