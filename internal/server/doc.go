// Package server serves the API of one node: sessions, locks, elections,
// membership, keys and the cluster, over gRPC, gRPC-Web and plain HTTP with
// JSON on one port; and /metrics, /healthz and /readyz.
//
// # Use
//
//	s, err := server.Start(ctx, server.Config{Engine: e, Listen: "127.0.0.1:7450"})
//	defer s.Shutdown(ctx)
//
// # Promises
//
//   - A client's locks, leaderships, members and leased keys hang on the client's
//     own session, which no node owns: they survive the crash of the node.
//   - A grant is never taken back because a connection broke: its answer may
//     have been lost. What only waits is withdrawn.
//   - A session serves only the principal that opened it. An admin may close it.
//   - Nobody may name what lies outside his prefixes, not even to look.
//   - A node without a certificate listens beyond loopback only if it is told
//     that this may be insecure.
//   - Every error has a holdfast.v1.ErrorDetail, and says whether the change
//     happened.
//   - One client cannot use up sessions, waiting calls, streams or time of the
//     others: each is bounded, see [Limits].
//   - Streams are never silent for longer than the heartbeat.
//
// # What you must do
//
// Shut the server down before the engine is closed.
//
// # When it goes wrong
//
// Without a quorum, calls fail as unavailable at once when the node's session
// is lost, otherwise when their time is over; /readyz says why. Outcomes are
// those of the engine.
//
// # Testing
//
// Start on engine.Memory and port 0 of loopback.
package server
