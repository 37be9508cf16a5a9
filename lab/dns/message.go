package dns

import (
	"errors"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Sizes of messages.
const (
	minUDP = 512  // without EDNS(0)
	maxUDP = 1232 // what passes every path unfragmented (DNS flag day 2020)
	maxTCP = 65535
)

// question is a message that is to be answered.
type question struct {
	header dnsmessage.Header
	q      dnsmessage.Question
	code   dnsmessage.RCode // not Success: answer with this at once
	edns   bool
	limit  int // bytes of the answer over UDP
}

// parse reads a question; ok is false when there is nothing to answer.
func parse(message []byte) (n question, ok bool) {
	var p dnsmessage.Parser
	h, err := p.Start(message)
	if err != nil || h.Response {
		return question{}, false
	}
	n = question{header: h, limit: minUDP}
	if h.OpCode != 0 {
		n.code = dnsmessage.RCodeNotImplemented
		return n, true
	}
	if err := n.read(&p); err != nil {
		n.code = dnsmessage.RCodeFormatError
	}
	return n, true
}

// read reads what follows the header.
func (n *question) read(p *dnsmessage.Parser) error {
	qs, err := p.AllQuestions()
	if err != nil {
		return err
	}
	if len(qs) != 1 {
		return errors.New("not one question")
	}
	n.q = qs[0]
	if n.q.Class != dnsmessage.ClassINET && n.q.Class != dnsmessage.ClassANY {
		n.code = dnsmessage.RCodeRefused
		return nil
	}
	if err := errors.Join(p.SkipAllAnswers(), p.SkipAllAuthorities()); err != nil {
		return err
	}
	for {
		h, err := p.AdditionalHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Type == dnsmessage.TypeOPT {
			n.edns = true
			n.limit = min(max(int(h.Class), minUDP), maxUDP)
		}
		if err := p.SkipAdditional(); err != nil {
			return err
		}
	}
}

// kind is what is asked for.
func (n question) kind() kind {
	switch n.q.Type { //nolint:exhaustive // the types of records that there are
	case dnsmessage.TypeA:
		return kindA
	case dnsmessage.TypeAAAA:
		return kindAAAA
	case dnsmessage.TypeALL:
		return kindAny
	case dnsmessage.TypeSRV:
		return kindSRV
	case dnsmessage.TypePTR:
		return kindPTR
	}
	return kindOther
}

// refuse answers a message that has no answer from the zone.
func (n question) refuse(code dnsmessage.RCode) ([]byte, error) {
	return n.pack(code, false, nil, nil)
}

// build writes the answer. Over UDP it is cut to the limit; full makes
// names complete.
func (n question) build(r reply, ttl time.Duration, full func(string) string, udp bool) ([]byte, error) {
	code := dnsmessage.RCodeSuccess
	switch {
	case r.fail:
		return n.refuse(dnsmessage.RCodeServerFailure)
	case r.nx:
		code = dnsmessage.RCodeNameError
	}
	seconds := uint32((ttl + time.Second - 1) / time.Second) //nolint:gosec // checked to fit
	head := dnsmessage.ResourceHeader{Name: n.q.Name, Class: dnsmessage.ClassINET, TTL: seconds}
	var answers []dnsmessage.Resource
	for _, a := range r.addrs {
		answers = append(answers, dnsmessage.Resource{Header: head, Body: address(a)})
	}
	for _, s := range r.services {
		target, err := dnsmessage.NewName(full(s.Target))
		if err != nil {
			return nil, err
		}
		answers = append(answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.SRVResource{
			Priority: s.Priority, Weight: s.Weight, Port: s.Port, Target: target,
		}})
	}
	for _, name := range r.pointers {
		to, err := dnsmessage.NewName(name)
		if err != nil {
			return nil, err
		}
		answers = append(answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.PTRResource{PTR: to}})
	}
	var authority []dnsmessage.Resource
	if len(answers) == 0 { // RFC 2308: how long that may be remembered
		root := dnsmessage.MustNewName(".")
		authority = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: root, Class: dnsmessage.ClassINET, TTL: seconds},
			Body:   &dnsmessage.SOAResource{NS: root, MBox: root, Serial: 1, Refresh: 60, Retry: 60, Expire: 60, MinTTL: seconds},
		}}
	}
	b, err := n.pack(code, false, answers, authority)
	if err == nil && (udp && len(b) > n.limit || len(b) > maxTCP) {
		return n.pack(code, true, nil, nil)
	}
	return b, err
}

func address(a netip.Addr) dnsmessage.ResourceBody {
	if a.Is4() {
		return &dnsmessage.AResource{A: a.As4()}
	}
	return &dnsmessage.AAAAResource{AAAA: a.As16()}
}

func (n question) pack(code dnsmessage.RCode, truncated bool, answers, authority []dnsmessage.Resource) ([]byte, error) {
	m := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: n.header.ID, Response: true, OpCode: n.header.OpCode, Authoritative: true, Truncated: truncated,
			RecursionDesired: n.header.RecursionDesired, RecursionAvailable: true, RCode: code,
		},
		Answers:     answers,
		Authorities: authority,
	}
	if n.q.Name.Length > 0 {
		m.Questions = []dnsmessage.Question{n.q}
	}
	if n.edns {
		var h dnsmessage.ResourceHeader
		if err := h.SetEDNS0(maxUDP, code, false); err != nil {
			return nil, err
		}
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	}
	return m.Pack()
}
