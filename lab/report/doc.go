// Package report makes one HTML file of what a run left behind.
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
package report
