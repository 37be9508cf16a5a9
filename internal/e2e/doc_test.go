// Package e2e tests the holdfast binary as people run it: real node processes,
// real clients, Debian's etcd and etcdctl. There is nothing in it but tests.
//
// Each test has its own nodes, on loopback, in a temporary directory; no
// process outlives the test (on Linux also when the test is killed).
package e2e
