// Package faultfs is a filesystem that knows what was synced, and forgets the rest when the power fails.
//
// # Use
//
// # Promises
//
// # What you must do
//
// # When it goes wrong
//
// # Testing
package faultfs
