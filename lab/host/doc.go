// Package host is the machines of the lab: namespaces with a first process of their own.
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
package host
