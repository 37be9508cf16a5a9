// Package dns is the name server of the lab: authoritative for every name, over
// UDP and TCP, and wrong on request.
//
// # Use
//
//	s, err := dns.Serve(ctx, dns.Config{
//		Conn: conn, Listener: listener, Domain: "lab",
//		Zone: map[string][]netip.Addr{"n1": {addr}},
//	})
//	defer s.Close()
//	err = s.Set("n1", dns.Fault{NX: true}) // n1 and n1.lab, until Set("n1", dns.Fault{})
//	err = s.SetRecords("n1", []netip.Addr{other})
//
// # Promises
//
//   - A, AAAA, SRV and PTR questions are answered from the zone, in the order in
//     which it has the addresses; PTR records follow from the others. A name with
//     no record of the type that was asked for has an empty answer, one that does
//     not exist NXDOMAIN, both with the SOA record that lets resolvers remember it
//     for the TTL. Nothing is asked of other servers.
//   - Answers that do not fit UDP, or the size that EDNS(0) allows, are truncated,
//     and whole over TCP.
//   - SetRecords and Set hold for every question that comes after they return.
//   - Touched counts the questions whose answer a fault made wrong, late or
//     missing; Queries counts the questions of each name.
//
// # What you must do
//
// Open the sockets; the server closes them. Close it, or end its ctx, and all its
// goroutines have ended when Close returns. Set and SetRecords may be called
// concurrently with everything.
//
// # When it goes wrong
//
// A fault is of the server: what resolvers keep, they keep. With a TTL of more than
// a second, changes and faults take that long to be seen, and a stale answer to go
// away. Beyond 1024 late answers, or 256 connections, at a time, further ones
// are dropped and counted. Messages that are not questions are ignored or answered
// with FORMERR; zone transfers, updates and DNSSEC do not exist.
//
// # Testing
//
// The resolver of Go asks it over loopback, and what it is told is compared with
// the zone; messages that are cut and damaged are thrown at it.
package dns
