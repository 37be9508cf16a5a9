// Package netem is what a link does to frames: delay, loss, duplication, corruption, reordering, rate and partition, frame by frame, without I/O and without a clock.
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
package netem
