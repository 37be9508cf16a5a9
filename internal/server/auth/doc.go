// Package auth says who calls the API and what he may do.
//
// # Use
//
//	a, err := auth.Open(auth.Config{Tokens: "tokens.yaml", Certificates: true})
//	p, err := a.Authenticate(request)
//	err = p.May(auth.Write, "jobs/nightly")
//
// The file of tokens holds no secret, only hashes (printf %s TOKEN | sha256sum):
//
//	tokens:
//	  - name: deploy
//	    sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
//	    role: write
//	    prefixes: [jobs/, deploy/]
//
// Roles: read sees names within its prefixes; write also changes them; admin
// also changes the cluster and sees and closes everybody's sessions. Prefixes
// bound the names of locks, elections, groups and keys alike; none is no bound.
//
// # Promises
//
//   - Without tokens and without certificates everybody may do everything;
//     with either, nobody who shows neither may do anything.
//   - A bearer token counts before a certificate. A client certificate without
//     a token is the principal "cert:" and its common name, with the role that
//     is its organizational unit, and write when that is none of the roles.
//   - A changed file counts from the next request; one that cannot be read or
//     has a fault is reported and the old tokens stay in force.
//   - How long a comparison takes tells nothing of the tokens.
//
// # What you must do
//
// Make tokens long and random (openssl rand -hex 24): their hash is not salted.
//
// # When it goes wrong
//
// Authenticate gives holdfast.ErrDenied; all faults of a file are reported at
// once.
//
// # Testing
//
// Everything happens in one file of a temporary directory.
package auth
