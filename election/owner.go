package election

import (
	"context"
	"fmt"

	"holdfast.dev"
	"holdfast.dev/internal/grant"
)

// Owner names a campaign: a session, and a request id that is never used again
// within it.
type Owner = grant.Owner

// FenceRequest is how a campaign deals with a leader that vanished.
type FenceRequest struct {
	Ask  bool           // do not take over from it unasked: answer with a VanishedError
	Done holdfast.Token // the token of the vanished leader that has been fenced off
}

// VanishedError says that the campaign is won, but that the leader before
// vanished and is to be fenced off first. Until the campaign is repeated with
// its token in FenceRequest.Done, or given up, nobody leads.
type VanishedError struct {
	Name   string
	Leader Leader

	token holdfast.Token // that the new leader will have
}

// Error says who vanished.
func (e *VanishedError) Error() string {
	return fmt.Sprintf("election %s: the leader before (session %v, token %v) vanished: fence it off first", e.Name, e.Leader.Session, e.Leader.Token)
}

// CampaignFor campaigns on behalf of another session, for servers. Asked again
// with the same owner, also through another process, it answers with the same
// grant. When ctx ends, a campaign that still waits is withdrawn; one that was
// won stays with its owner, who may ask again or resign.
func (m *Manager) CampaignFor(ctx context.Context, o Owner, name string, value []byte, f FenceRequest) (Grant, error) {
	return m.campaign(ctx, o, name, value, f, true)
}

// ProclaimFor replaces the value of o's leadership.
func (m *Manager) ProclaimFor(ctx context.Context, o Owner, name string, value []byte) error {
	if err := check(name, value); err != nil {
		return err
	}
	if value == nil {
		value = []byte{}
	}
	return m.agent.Change(ctx, o, name, value, false)
}

// ResignFor ends o's leadership, or withdraws its campaign.
func (m *Manager) ResignFor(ctx context.Context, o Owner, name string) error {
	return m.agent.Release(ctx, o, name)
}

func (m *Manager) campaign(ctx context.Context, o Owner, name string, value []byte, f FenceRequest, keep bool) (Grant, error) {
	if err := check(name, value); err != nil {
		return Grant{}, err
	}
	g, err := m.agent.Acquire(ctx, grant.Ask{Owner: o, Name: name, Mode: grant.Exclusive, Value: value, Keep: keep})
	if err != nil {
		return Grant{}, err
	}
	token := holdfast.NewToken(m.session.Epoch(), g.Revision)
	if g.Vanished == nil {
		return Grant{Name: name, Token: token}, nil
	}
	vanished := m.toLeader(*g.Vanished, g.Vanished.Granted)
	if f.Ask && f.Done != vanished.Token {
		return Grant{}, &VanishedError{Name: name, Leader: vanished, token: token}
	}
	if err := m.agent.Change(ctx, o, name, nil, true); err != nil {
		if !keep {
			err = m.giveUp(ctx, o, name, err)
		}
		return Grant{}, err
	}
	return Grant{Name: name, Token: token}, nil
}

// giveUp leaves a campaign that was won, and then failed with err, to the next
// one. The agent goes on with that by itself if it takes longer than an attempt.
// Whatever came of it at the quorum, the caller does not lead, and will not.
func (m *Manager) giveUp(ctx context.Context, o Owner, name string, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.session.Attempt())
	defer cancel()
	if rerr := m.agent.Release(ctx, o, name); rerr != nil {
		err = fmt.Errorf("%w (given up: %w)", err, rerr)
	}
	return &holdfast.Error{Key: "election " + name, Op: "campaign", Code: holdfast.CodeOf(err), Outcome: holdfast.NotApplied, Err: err}
}
