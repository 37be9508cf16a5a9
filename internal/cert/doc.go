// Package cert makes a private certificate authority and the certificates of
// nodes and clients, and loads them for TLS so that replaced files are taken up
// without a restart.
//
// # Use
//
//	ca, err := cert.NewCA(cert.CAConfig{Name: "orders"})
//	err = ca.Write("certs")                                  // ca.crt, ca.key
//	pair, err := ca.Issue(cert.Request{Name: "n1", Usage: cert.Node, Hosts: []string{"10.0.0.1"}})
//	err = pair.Write("certs/n1.crt", "certs/n1.key")
//
//	tlsConfig, err := cert.Files{Cert: "certs/n1.crt", Key: "certs/n1.key", CA: "certs/ca.crt"}.Server()
//
// # Promises
//
//   - Keys are ECDSA P-256, written with mode 0600, and never overwrite a file.
//   - A certificate is valid from a day before it was made, so that a host whose
//     clock is behind takes it.
//   - Server configurations follow the files: the next handshake after a
//     replacement uses the new ones. Half-written or broken files are ignored
//     until they are whole; the last good ones stay in use.
//   - TLS 1.2 at least, 1.3 where the other side has it.
//
// # What you must do
//
// Keep ca.key away from the nodes: it is needed only to issue.
//
// # When it goes wrong
//
// Every error names the file. An expired certificate is refused by the other
// side's handshake; [Inspect] says until when one is valid.
//
// # Testing
//
// Everything happens in files of a temporary directory.
package cert
