// Package node puts one node together: the engine, embedded or an etcd cluster
// that is there already, and the server of the API on it.
//
// # Use
//
//	n, err := node.Start(ctx, node.Config{Serve: settings, Logger: logger})
//	defer n.Close(ctx)
//
// # Promises
//
//   - Start returns when the node serves, or says why it does not.
//   - A node that joins is a learner until it has caught up, and has a vote when
//     Start returns. Starting it again does not join again.
//   - Close hands the consensus' leadership over first; sessions of clients
//     stay, other nodes keep them.
//
// # What you must do
//
// Validate the settings first, and Close. Watch Done: a node that was removed
// from its cluster, or whose disk failed, stops by itself.
//
// # When it goes wrong
//
// Errors name the address, file or node they are about.
//
// # Testing
//
// See cmd/holdfast and package client.
package node
