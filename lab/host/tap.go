package host

import (
	"context"
	"net"
	"net/netip"
	"os"
)

// Interface is a network interface of the lab itself.
type Interface struct{}

// InterfaceConfig says what it is. Name and Addr are required.
type InterfaceConfig struct {
	Name      string // "lab0"
	Addr      netip.Prefix
	MAC       net.HardwareAddr // default: MAC(Addr)
	MTU       int              // default: 1500
	Neighbors map[netip.Addr]net.HardwareAddr
}

// LabInterface makes an interface in the network namespace of the calling
// process, which should be the supervising one, and brings it and lo up.
func LabInterface(ctx context.Context, cfg InterfaceConfig) (*Interface, error) { return nil, errStub }

// TAP is the other end of the interface; see Host.TAP.
func (i *Interface) TAP() *os.File { return nil }

// Close removes the interface.
func (i *Interface) Close() error { return errStub }
