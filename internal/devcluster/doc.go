// Package devcluster runs three real nodes on this machine for trying things
// out: processes of the holdfast binary, on loopback, in one directory.
//
// # Use
//
//	c, err := devcluster.Start(ctx, devcluster.Config{Binary: "/usr/bin/holdfast", Dir: dir})
//	defer c.Close()
//	for e := range c.Events() { … } // a node that died
//
// # Promises
//
//   - Start returns when all nodes have said that they are ready.
//   - No node outlives the process that started it, however that ends (Linux);
//     Close leaves no process.
//   - The ports are the documented ones when they are free, others when not.
//
// # What you must do
//
// Read Events, and Close.
//
// # When it goes wrong
//
// A node that does not start is reported with the end of its log.
//
// # Testing
//
// See cmd/holdfast: the test binary is the node.
package devcluster
