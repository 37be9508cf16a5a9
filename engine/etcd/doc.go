// Package etcd is an engine over an etcd cluster that is there already,
// version 3.4 to 3.7, and the part that engine/embed shares with it.
//
// # Use
//
//	cfg, err := etcd.ParseURL("etcd://n1:2379,n2:2379,n3:2379/team-a?ca=ca.pem&cert=me.pem&key=me.key")
//	e, err := etcd.Dial(ctx, cfg)
//	defer e.Close()
//
// Everything stands under one prefix, "/holdfast/" by default; with etcd's
// users on, the user needs a role that reads and writes that prefix, and Compact
// the role root. Without a user name, etcd takes the name in the certificate.
//
// # Promises
//
//   - A change is sent once. Requests are sent again only after etcd refused the
//     credentials, which it does before it proposes anything.
//   - Errors say what is known. NotApplied means that the member refused before
//     anything was proposed, or that no byte of the request was written;
//     everything else is Unknown, also a store that is full, since etcd may
//     apply a change and still answer so.
//   - One member is used at a time, the leader if it can be reached when one is
//     chosen. It must answer a linearizable read every two seconds; when it
//     cannot, because it is down, slow or cut off from its peers, another one is
//     taken within about two seconds. Watches go with it, gap-free.
//   - A watch asks for a sign of life every two seconds and is opened anew after
//     six seconds of silence.
//
// # What you must do
//
//   - Keep the clocks of TLS certificates in order; nothing else depends on
//     clocks that show the time of day.
//   - Compact the cluster's history (auto-compaction-retention), not more often
//     than the longest break a watch should survive.
//   - Know that leases last whole seconds, and at least one and a half election
//     timeouts: two seconds with etcd's defaults.
//
// # When it goes wrong
//
// Without a member that answers, calls end with holdfast.ErrNoQuorum or the
// context's error. A full store gives holdfast.ErrExhausted until it has been
// compacted, defragmented and disarmed.
//
// On etcd before 3.4.25, and from 3.5.0 to 3.5.7, a member's word on how far a
// watch is may overtake the watch's events. There every watch reads the whole
// prefix and picks what it wants, and an idle one that is to tell its progress
// writes the key "cluster/watch" every two seconds: correct, but dearer.
//
// # Testing
//
// The tests run engine/enginetest on an embedded node's client port and on the
// etcd binary of the system (Debian: etcd-server).
package etcd
