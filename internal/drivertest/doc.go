// Package drivertest is for tests of drivers: a world without a lab, in which
// they start their servers, and short names for the calls of their clients.
package drivertest
