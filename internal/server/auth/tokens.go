package auth

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// certPrefix begins the names of principals known by their certificate.
const certPrefix = "cert:"

// token is one entry of the file, checked.
type token struct {
	sum       [sha256.Size]byte
	principal Principal
}

// tokenFile is the file as it is written.
type tokenFile struct {
	Tokens []struct {
		Name     string   `yaml:"name"`
		SHA256   string   `yaml:"sha256"`
		Role     string   `yaml:"role"`
		Prefixes []string `yaml:"prefixes"`
	} `yaml:"tokens"`
}

func readTokens(path string) ([]token, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	tokens, err := parseTokens(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return tokens, nil
}

// parseTokens reports all faults at once.
func parseTokens(b []byte) ([]token, error) {
	var file tokenFile
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var (
		faults []error
		tokens []token
		names  = map[string]bool{}
	)
	for i, e := range file.Tokens {
		fault := func(format string, args ...any) {
			faults = append(faults, fmt.Errorf("token %d: "+format, append([]any{i + 1}, args...)...))
		}
		switch {
		case e.Name == "":
			fault("name: is missing")
		case names[e.Name]:
			fault("name: %q is there twice", e.Name)
		case e.Name == Anonymous || strings.HasPrefix(e.Name, certPrefix):
			fault("name: %q means something else", e.Name)
		}
		names[e.Name] = true
		t := token{principal: Principal{Name: e.Name, Prefixes: e.Prefixes}}
		sum, err := hex.DecodeString(e.SHA256)
		if err != nil || len(sum) != len(t.sum) {
			fault("sha256: want 64 hexadecimal digits")
		}
		copy(t.sum[:], sum)
		role, ok := ParseRole(e.Role)
		if !ok {
			fault("role: %q, want read, write or admin", e.Role)
		}
		t.principal.Role = role
		for _, p := range e.Prefixes {
			if p == "" {
				fault("prefixes: an empty one covers everything; leave them out instead")
			}
		}
		tokens = append(tokens, t)
	}
	return tokens, errors.Join(faults...)
}
