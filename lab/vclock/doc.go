// Package vclock moves the wall clock of the processes of one host, in the vDSO that the kernel gave each of them.
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
package vclock
