//go:build !linux

package engine

// suspended is 0 where no clock that counts suspend is read: there a laptop's
// sleep delays the loss of a session until the first renewal after waking.
func suspended() int64 { return 0 }
