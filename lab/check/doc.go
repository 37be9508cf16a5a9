// Package check decides from a history alone whether what clients saw is what they were promised.
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
package check
