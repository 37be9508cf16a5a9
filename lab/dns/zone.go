package dns

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Fault is what the server does wrong about a name. The zero fault is none. Of
// several fields the first counts in the order Silent, Fail, NX, Answer, Stale;
// Delay goes with each of them and alone.
type Fault struct {
	Answer []netip.Addr  // these addresses instead
	Stale  bool          // the addresses that the name had before the last SetRecords
	NX     bool          // there is no such name
	Silent bool          // no answer
	Fail   bool          // SERVFAIL
	Delay  time.Duration // answers come this much later
}

func (f Fault) none() bool {
	return f.Answer == nil && !f.Stale && !f.NX && !f.Silent && !f.Fail && f.Delay == 0
}

func (f Fault) check() error {
	if f.Delay < 0 {
		return fmt.Errorf("dns: delay of %v: not negative", f.Delay)
	}
	return nil
}

// Service is one record of where a service is (SRV, RFC 2782).
type Service struct {
	Target           string // a name of the zone
	Port             uint16
	Priority, Weight uint16
}

// maxNames bounds the names whose questions are counted one by one.
const maxNames = 4096

// zone is what the server knows. It is not safe for concurrent use.
type zone struct {
	domain   string
	records  map[string][]netip.Addr
	before   map[string][]netip.Addr // the last SetRecords
	services map[string][]Service
	faults   map[string]Fault
	queries  map[string]int64
	touched  int64
}

func newZone(domain string, records map[string][]netip.Addr, services map[string][]Service) (*zone, error) {
	z := &zone{
		domain:   strings.ToLower(strings.Trim(domain, ".")),
		records:  map[string][]netip.Addr{},
		before:   map[string][]netip.Addr{},
		services: map[string][]Service{},
		faults:   map[string]Fault{},
		queries:  map[string]int64{},
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(records)) {
		if err := z.set(name, records[name]); err != nil {
			errs = append(errs, err)
		}
	}
	z.before = map[string][]netip.Addr{}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		if err := z.checkName(name); err != nil {
			errs = append(errs, err)
		}
		for _, s := range services[name] {
			if err := z.checkName(s.Target); err != nil {
				errs = append(errs, err)
			}
		}
		z.services[z.canonical(name)] = slices.Clone(services[name])
	}
	return z, errors.Join(errs...)
}

// canonical is the key of a name: without the domain and the last dot, in lower
// case.
func (z *zone) canonical(name string) string {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if z.domain != "" {
		name = strings.TrimSuffix(name, "."+z.domain)
	}
	return name
}

// full is a name with the domain and the last dot.
func (z *zone) full(name string) string {
	name = z.canonical(name)
	if z.domain != "" {
		name += "." + z.domain
	}
	return name + "."
}

// checkName says whether a name can be one: RFC 1035, section 2.3.4.
func (z *zone) checkName(name string) error {
	full := z.full(name)
	if len(full) > 253 {
		return fmt.Errorf("dns: name %.40q…: %d bytes, at most 253", name, len(full))
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(full, "."), ".") {
		if label == "" || len(label) > 63 {
			return fmt.Errorf("dns: name %.80q: a part of it is empty or longer than 63 bytes", name)
		}
	}
	return nil
}

// set replaces the addresses of a name; nil removes it.
func (z *zone) set(name string, addrs []netip.Addr) error {
	if err := z.checkName(name); err != nil {
		return err
	}
	for _, a := range addrs {
		if !a.IsValid() {
			return fmt.Errorf("dns: name %s: an address is not valid", name)
		}
	}
	key := z.canonical(name)
	z.before[key] = z.records[key]
	if addrs == nil {
		delete(z.records, key)
		return nil
	}
	z.records[key] = slices.Clone(addrs)
	return nil
}

func (z *zone) setFault(name string, f Fault) error {
	if err := f.check(); err != nil {
		return err
	}
	if name != "" {
		if err := z.checkName(name); err != nil {
			return err
		}
		name = z.canonical(name)
	}
	if f.none() {
		delete(z.faults, name)
		return nil
	}
	f.Answer = slices.Clone(f.Answer)
	z.faults[name] = f
	return nil
}

// kind of a question.
type kind int

const (
	kindOther kind = iota // there may be such a name, but no such record
	kindA
	kindAAAA
	kindAny
	kindSRV
	kindPTR
)

// reply is what is answered.
type reply struct {
	silent   bool
	fail     bool
	nx       bool
	delay    time.Duration
	addrs    []netip.Addr
	services []Service
	pointers []string // full names
}

// same says whether a resolver sees no difference.
func (r reply) same(other reply) bool {
	return r.silent == other.silent && r.fail == other.fail && r.nx == other.nx && r.delay == other.delay &&
		slices.Equal(r.addrs, other.addrs) && slices.Equal(r.services, other.services) && slices.Equal(r.pointers, other.pointers)
}

// answer answers a question, and counts it.
func (z *zone) answer(name string, k kind) reply {
	key := z.canonical(name)
	if _, known := z.queries[key]; known || len(z.queries) < maxNames {
		z.queries[key]++
	} else {
		z.queries[""]++
	}
	right := z.right(key, k)
	f, ok := z.faults[key]
	if !ok {
		f = z.faults[""]
	}
	wrong := right
	switch {
	case f.Silent:
		wrong = reply{silent: true}
	case f.Fail:
		wrong = reply{fail: true}
	case f.NX:
		wrong = reply{nx: true}
	case f.Answer != nil && (k == kindA || k == kindAAAA || k == kindAny):
		wrong = reply{addrs: of(f.Answer, k)}
	case f.Stale:
		if old, changed := z.before[key]; changed {
			wrong = z.reply(key, k, old)
		}
	}
	if !wrong.silent {
		wrong.delay = f.Delay
	}
	if !wrong.same(right) {
		z.touched++
	}
	return wrong
}

// right is the answer without a fault.
func (z *zone) right(key string, k kind) reply { return z.reply(key, k, z.records[key]) }

// reply is the answer when a name has these addresses; none at all is none.
func (z *zone) reply(key string, k kind, addrs []netip.Addr) reply {
	services := z.services[key]
	var pointers []string
	reverse, isReverse := parseReverse(key)
	if isReverse {
		for _, name := range slices.Sorted(maps.Keys(z.records)) {
			if slices.Contains(z.records[name], reverse) {
				pointers = append(pointers, z.full(name))
			}
		}
	}
	r := reply{nx: addrs == nil && services == nil && pointers == nil && !z.parent(key)}
	switch k {
	case kindA, kindAAAA:
		r.addrs = of(addrs, k)
	case kindAny:
		r.addrs, r.services, r.pointers = of(addrs, k), services, pointers
	case kindSRV:
		r.services = services
	case kindPTR:
		r.pointers = pointers
	case kindOther:
	}
	return r
}

// parent says whether there are names below a name, which then exists as well
// (RFC 8020).
func (z *zone) parent(key string) bool {
	if key == "" || key == z.domain {
		return true
	}
	for name := range z.records {
		if strings.HasSuffix(name, "."+key) {
			return true
		}
	}
	for name := range z.services {
		if strings.HasSuffix(name, "."+key) {
			return true
		}
	}
	return false
}

// of picks the addresses that a record of this kind can have.
func of(addrs []netip.Addr, k kind) []netip.Addr {
	var list []netip.Addr
	for _, a := range addrs {
		a = a.Unmap()
		if k == kindAny || a.Is4() == (k == kindA) {
			list = append(list, a)
		}
	}
	return list
}

// parseReverse reads a name of in-addr.arpa or ip6.arpa.
func parseReverse(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		parts := strings.Split(rest, ".")
		slices.Reverse(parts)
		a, err := netip.ParseAddr(strings.Join(parts, "."))
		return a, err == nil && a.Is4()
	}
	if rest, ok := strings.CutSuffix(name, ".ip6.arpa"); ok {
		parts := strings.Split(rest, ".")
		if len(parts) != 32 {
			return netip.Addr{}, false
		}
		slices.Reverse(parts)
		var b [16]byte
		for i, p := range parts {
			n, err := strconv.ParseUint(p, 16, 4)
			if err != nil {
				return netip.Addr{}, false
			}
			b[i/2] |= byte(n) << (4 * (1 - i%2))
		}
		return netip.AddrFrom16(b), true
	}
	return netip.Addr{}, false
}
