// Package nemesis is what breaks: faults as values that print and parse, and how each is injected, seen to work, and taken back.
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
package nemesis
