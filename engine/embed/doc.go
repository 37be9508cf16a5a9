// Package embed is an engine that runs an etcd server in this process, alone
// or as a member of a cluster, and keeps it in order.
//
// # Use
//
//	n, err := embed.Start(ctx, embed.Config{Dir: "/var/lib/holdfast"})
//	defer n.Close()
//	go n.Maintain(ctx, embed.MaintainConfig{})
//
// A node alone listens nowhere. Three of them with Name, ListenPeer and the
// same InitialCluster form a cluster. [Node.AddLearner] and [Node.Promote] grow
// it; [Node.Snapshot] and [Restore] save and revive it.
//
// # Promises
//
//   - What was acknowledged is on a majority's disks.
//   - After a restore every revision is higher, the epoch is higher, and no
//     session, lock or leadership from before is left; no node is ready before
//     that is so.
//   - Close hands leadership over first.
//   - Members compare their data when they start and after compactions; one that
//     differs raises the alarm CORRUPT.
//
// # What you must do
//
//   - Give every incarnation of a cluster its own ClusterToken.
//   - Set RestoreConfig.MinEpoch when one snapshot is restored twice.
//   - Put the data directory on a disk of its own whose sync takes well below a
//     fifth of Config.Election.
//   - Protect ListenPeer and ListenClient with TLS where others reach them.
//
// # When it goes wrong
//
// A node that is cut off from the majority ends calls with holdfast.ErrNoQuorum
// or the context's error; its watches fall silent, progress included. At the
// quota changes end with holdfast.ErrExhausted, outcome unknown, except for
// deletions; [Node.Maintain] compacts, defragments and disarms. [Node.Done]
// closes when the server stops by itself: its disk failed, or the member was
// removed.
//
// # Testing
//
// Config.UnsafeNoFsync, a Heartbeat of 10 ms and an Election of 100 ms start a
// node in some 50 ms. [Node.Kill] is a crash as the others see it.
package embed
