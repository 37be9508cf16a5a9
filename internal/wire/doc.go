// Package wire is what the node and the Go client share of the API: how errors
// and the values of the primitives stand in its messages, and its JSON.
//
// # Use
//
//	return nil, wire.ToConnect(err)      // in a handler
//	return wire.FromConnect(err)         // in a client
//
// # Promises
//
//   - Code, outcome, request id and text of a *holdfast.Error are the same on
//     both sides.
//   - An error that no node made (a broken connection, a proxy's answer) has the
//     outcome holdfast.Unknown.
//   - JSON uses the field names of the proto files and refuses unknown ones.
//
// # What you must do
//
// Send every error of a handler through ToConnect, once.
//
// # When it goes wrong
//
// A detail that cannot be read is treated as if it were not there.
//
// # Testing
//
// The conversions are pure.
package wire
