// Package history records what clients asked and were told.
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
package history
