// Package vswitch is the network of the lab: a layer-2 switch in user space, between TAP devices.
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
package vswitch
