package server

import (
	"context"

	"holdfast.dev/engine"
)

// namePrefix is where the names of members that were added are kept, by id: the
// quorum itself learns them when the members start.
const namePrefix = "cluster/name/"

// keepName keeps the name a member was added under.
func (s *Server) keepName(ctx context.Context, id uint64, name string) error {
	_, err := engine.Submit(ctx, s.cfg.Engine, s.cfg.Attempt, engine.Txn{Then: []engine.Op{engine.Put(namePrefix+hex(id), []byte(name))}})
	return err
}

// forgetName forgets the name of a member that was removed.
func (s *Server) forgetName(ctx context.Context, id uint64) error {
	_, err := engine.Submit(ctx, s.cfg.Engine, s.cfg.Attempt, engine.Txn{Then: []engine.Op{engine.Delete(namePrefix + hex(id))}})
	return err
}

// fillNames names members that have not started yet.
func (s *Server) fillNames(ctx context.Context, members []Member) error {
	for i, m := range members {
		if m.Name != "" {
			continue
		}
		res, err := retry(ctx, s.cfg.Attempt, func(ctx context.Context) (engine.RangeResult, error) {
			return s.cfg.Engine.Range(ctx, engine.RangeRequest{Key: namePrefix + hex(m.ID)})
		})
		if err != nil {
			return err
		}
		if len(res.KVs) > 0 {
			members[i].Name = string(res.KVs[0].Value)
		}
	}
	return nil
}
