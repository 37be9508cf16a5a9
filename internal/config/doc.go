// Package config reads the settings of a node: one struct whose fields are
// flags, environment variables and YAML keys of the same names.
//
// # Use
//
//	var c config.Serve // embedded in a kong command
//	sources := config.NewSources(env.Lookup)
//	sources.File("holdfast.yaml", data)
//	// kong resolves flags through sources
//	err := errors.Join(sources.Faults(), c.Validate(sources))
//
// # Promises
//
//   - A flag beats the environment, the environment beats the file, the file
//     beats the default.
//   - The flag --election-timeout is HOLDFAST_ELECTION_TIMEOUT in the
//     environment and election-timeout in the file.
//   - All faults are reported at once, each with where it stands.
//
// # What you must do
//
// Tag flags that may come from elsewhere with from:"env" or from:"env,file".
//
// # When it goes wrong
//
// A key the file may not have is refused with its line and, when one is near,
// the key that was meant.
//
// # Testing
//
// Everything is plain values; nothing here reads the process.
package config
