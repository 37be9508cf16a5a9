// Package driver knows how systems are started and how their clients talk to them.
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
package driver
