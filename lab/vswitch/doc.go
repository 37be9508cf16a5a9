//go:build linux

// Package vswitch is the network of the lab: a layer-2 switch in user space,
// between TAP devices, that does to every directed link what package netem
// describes.
//
// # Use
//
//	s := vswitch.New(vswitch.Config{Seed: 1})
//	err := s.Attach(vswitch.Port{Name: "n1", Addr: addr, MAC: mac, TAP: tap}) // and n2, …
//	err = s.Run()
//	rule, err := s.Apply([]vswitch.Link{{"n1", "n2"}}, vswitch.Match{Proto: "tcp", Port: 2379}, netem.Impairment{Loss: 0.07})
//	…
//	rule.Remove()
//	err = s.Close(ctx)
//
// # Promises
//
// Frames go to the port that has their MAC, or their IP address if the MAC is
// unknown. ARP is answered by the switch, so that no fault of a link lets it fail;
// other broadcasts, multicasts and addresses go nowhere and are counted.
//
// Rules take effect on the next frame and hold up none. A link without rules costs
// one read and one write, without allocation and without a lock. Delayed frames
// are sent by one thread of its own that the kernel wakes, never before their
// time; how much later is measured for each frame and given with the counters.
// What the lab is to blame for is counted apart, as overruns: frames more than
// Config.Late too late, frames a TAP had no room for, frames above
// Config.Memory; and what the kernel dropped before the switch could read it, if
// Config.TxDropped tells. A run with overruns shows the lab's faults, not those of
// the scenario.
//
// Touched counts the frames that a rule changed, so that a fault that met nothing
// is seen. Frames held by a jam go on in order when it ends, before those that
// come then.
//
// Reset ends connections with RSTs that both ends believe, whatever was on the
// way: the switch knows what each end expects, and answers an end that asks again.
// Connections are known from the moment the ports are attached.
//
// The capture is pcapng with nanoseconds, for Wireshark and tcpdump: an interface
// for each host, as if captured on its eth0, comments on the frames that rules
// changed, and the rules' own comings and goings on the interface "rules".
//
// # What you must do
//
// Make TAPs with IFF_TAP|IFF_NO_PI and without offloads: with them a loss of 7 %
// would be one of 64-KiB bursts, and corruption would be hidden. Config.MTU is
// not less than that of any port. Give each TAP to the switch alone; it is put
// into non-blocking mode and closed by Detach or Close. Attach hosts before rules
// name them.
//
// For a power failure unplug the host, here or at its own end, before its
// processes are killed: else its kernel, which lives as long as the TAP is open,
// sends FINs and RSTs for them.
//
// Set GOMAXPROCS to at least the number of ports and of cores together: the
// threads of the ports and of the schedule each hold a turn in the Go scheduler
// while they read and write, and on a busy machine would wait for one another.
// Where the process may (CAP_SYS_NICE) these threads run at nice -15, or before
// everything with Config.Realtime; elsewhere delays are less exact on a busy
// machine. With the kernel's autogroups nice counts within a session only.
//
// # When it goes wrong
//
// Attach, Apply, Reset and Burst say what is wrong with what they were given;
// ErrUnknown is a host that was never attached. A host whose TAP goes away (its
// namespace ended) is as if unplugged: frames to it count as DroppedDown until it
// is detached and attached again. A capture that cannot keep up misses frames,
// which are counted, rather than hold up the network.
//
// # Testing
//
// The tests run the switch over socket pairs, and over TAPs between namespaces of
// their own with the kernel's TCP at both ends.
package vswitch
