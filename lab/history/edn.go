package history

import (
	"errors"
	"io"
)

// ReadEDN reads a history in Clojure's notation: see [Options.ReadEDN].
func ReadEDN(r io.Reader) (History, error) { return Options{}.ReadEDN(r) }

// ReadEDN is to be written.
func (o Options) ReadEDN(io.Reader) (History, error) { return nil, errors.New("EDN is not read yet") }

// WriteEDN writes a history in Clojure's notation.
func WriteEDN(w io.Writer, h History) error { return Options{}.WriteEDN(w, h) }

// WriteEDN is to be written.
func (o Options) WriteEDN(io.Writer, History) error { return errors.New("EDN is not written yet") }
