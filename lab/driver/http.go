package driver

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"holdfast.dev/lab/history"
)

// maxBody and maxHeader bound an answer.
const (
	maxBody   = 16 << 20
	maxHeader = 1 << 20
)

// httpClient makes requests that a scenario describes. It does not use
// net/http's Transport, which sends some requests again by itself when a
// connection that was used before breaks: here, every request is written once,
// on a connection of its own or on the only one that there is.
type httpClient struct {
	cfg    HTTPConfig
	env    Env
	data   TemplateData
	origin *url.URL
	conn   *httpConn // kept for the next request, with KeepAlive
}

// httpConn is a connection and what was read ahead from it.
type httpConn struct {
	net.Conn

	limit *io.LimitedReader // headers and body of one answer
	r     *bufio.Reader     // of limit
}

// newHTTPClient returns a client for the server on a node.
func newHTTPClient(cfg HTTPConfig, env Env, node string) (*httpClient, error) {
	data := templateData(env, node)
	text, err := expand(cfg.URL, env, data)
	if err != nil {
		return nil, fmt.Errorf("client.http.url: %w", err)
	}
	origin, err := parseOrigin(text)
	if err != nil {
		return nil, fmt.Errorf("client.http.url: %w", err)
	}
	return &httpClient{cfg: cfg, env: env, data: data, origin: origin}, nil
}

func parseOrigin(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, err
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("%q is not like http://host:port", text)
	}
	return u, nil
}

// Invoke implements Client.
func (c *httpClient) Invoke(ctx context.Context, op history.Op) history.Op {
	req, how, err := c.request(ctx, op)
	if err != nil {
		op.Type, op.Error = history.Fail, err.Error()
		return op
	}
	status, body, sent, err := c.roundTrip(ctx, req)
	switch {
	case err != nil && !sent:
		op.Type, op.Error = history.Fail, "not sent: "+err.Error()
	case err != nil:
		op.Type, op.Error = history.Info, err.Error()
	default:
		op = how.judge(op, status, body)
	}
	return op
}

// Close implements Client.
func (c *httpClient) Close() error {
	c.drop()
	return nil
}

func (c *httpClient) drop() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// request fills the description in.
func (c *httpClient) request(ctx context.Context, op history.Op) (*http.Request, HTTPOpConfig, error) {
	how, ok := c.cfg.Ops[op.F]
	if !ok {
		return nil, how, fmt.Errorf("the scenario describes no request for %s: add client.http.ops.%s", op.F, op.F)
	}
	data := requestData{TemplateData: c.data, F: op.F, Key: op.Key, Value: op.Value, Process: op.Process}
	path, err := expand(how.Path, c.env, data)
	if err != nil {
		return nil, how, err
	}
	body, err := expand(how.Body, c.env, data)
	if err != nil {
		return nil, how, err
	}
	target, err := c.origin.Parse(path)
	if err != nil {
		return nil, how, err
	}
	req, err := http.NewRequestWithContext(ctx, cmp.Or(how.Method, http.MethodGet), target.String(), strings.NewReader(body))
	if err != nil {
		return nil, how, err
	}
	for _, headers := range []map[string]string{c.cfg.Headers, how.Headers} {
		for name, text := range headers {
			v, err := expand(text, c.env, data)
			if err != nil {
				return nil, how, err
			}
			req.Header.Set(name, v)
		}
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	req.Close = !c.cfg.KeepAlive
	return req, how, nil
}

// roundTrip writes the request once and reads the answer. sent says whether the
// server may have got any of it.
func (c *httpClient) roundTrip(ctx context.Context, req *http.Request) (status int, body []byte, sent bool, err error) {
	if c.conn == nil {
		if c.conn, err = c.dial(ctx); err != nil {
			return 0, nil, false, err
		}
	}
	conn := c.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	keep := false
	defer func() {
		if !stop() || !keep {
			c.drop()
		}
		if err != nil && ctx.Err() != nil {
			err = ctx.Err() // rather than "use of closed connection"
		}
	}()
	if err := ctx.Err(); err != nil {
		return 0, nil, false, err
	}
	if err := req.Write(conn); err != nil {
		return 0, nil, true, err
	}
	conn.limit.N = maxHeader
	resp, err := readResponse(conn.r, req)
	if err != nil {
		return 0, nil, true, err
	}
	defer func() { _ = resp.Body.Close() }()
	conn.limit.N = maxBody + maxHeader // chunks have headers too
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return 0, nil, true, err
	case len(body) > maxBody:
		return 0, nil, true, fmt.Errorf("the answer is longer than %d bytes", maxBody)
	}
	keep = c.cfg.KeepAlive && !resp.Close
	return resp.StatusCode, body, true, nil
}

// readResponse skips interim answers.
func readResponse(r *bufio.Reader, req *http.Request) (*http.Response, error) {
	const most = 5
	for range most {
		resp, err := http.ReadResponse(r, req)
		if err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
				err = fmt.Errorf("the connection ended before the answer: %w", err)
			}
			return nil, err
		}
		if resp.StatusCode >= 200 {
			return resp, nil
		}
	}
	return nil, errors.New("the server answers with interim statuses only")
}

func (c *httpClient) dial(ctx context.Context) (*httpConn, error) {
	host := c.origin.Host
	if c.origin.Port() == "" {
		host = net.JoinHostPort(c.origin.Hostname(), c.origin.Scheme)
	}
	var conn net.Conn
	var err error
	if c.origin.Scheme == "https" {
		d := tls.Dialer{Config: &tls.Config{
			InsecureSkipVerify: c.cfg.Insecure,
			ServerName:         c.origin.Hostname(),
		}}
		conn, err = d.DialContext(ctx, "tcp", host)
	} else {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", host)
	}
	if err != nil {
		return nil, err
	}
	limit := &io.LimitedReader{R: conn}
	return &httpConn{Conn: conn, limit: limit, r: bufio.NewReader(limit)}, nil
}

// judge says what an answer means.
func (how HTTPOpConfig) judge(op history.Op, status int, body []byte) history.Op {
	ok := how.OK
	if len(ok) == 0 {
		ok = []int{http.StatusOK, http.StatusCreated, http.StatusNoContent}
	}
	switch {
	case slices.Contains(how.Nil, status):
		op.Type, op.Value = history.OK, nil
	case slices.Contains(how.Fail, status):
		op.Type, op.Error = history.Fail, said(status, body)
	case !slices.Contains(ok, status):
		op.Type, op.Error = history.Info, said(status, body)
	case how.Value == nil:
		op.Type = history.OK
	default:
		v, err := how.Value.extract(body)
		if err != nil {
			op.Type, op.Error = history.Info, fmt.Sprintf("%s: %v", said(status, body), err)
			return op
		}
		op.Type, op.Value = history.OK, v
	}
	return op
}

func said(status int, body []byte) string {
	text := strings.ToValidUTF8(string(bytes.TrimSpace(body[:min(len(body), 200)])), "?")
	return strings.TrimSpace(fmt.Sprintf("status %d %s", status, text))
}

// extract finds the value in an answer.
func (v HTTPValueConfig) extract(body []byte) (any, error) {
	switch {
	case v.JSON != "":
		value, err := decodeValue(body)
		if err != nil {
			return nil, fmt.Errorf("it is not JSON: %w", err)
		}
		return follow(value, v.JSON)
	case v.Regexp != "":
		re, err := regexp.Compile(v.Regexp)
		if err != nil {
			return nil, err
		}
		m := re.FindSubmatch(body)
		if len(m) < 2 {
			return nil, fmt.Errorf("it does not match %s", v.Regexp)
		}
		return fromText(string(m[1])), nil
	default:
		return fromText(strings.TrimSpace(string(body))), nil
	}
}

// follow walks a path of names and indices; "." is the value itself.
func follow(value any, path string) (any, error) {
	for step := range strings.SplitSeq(path, ".") {
		if step == "" {
			continue
		}
		switch at := value.(type) {
		case map[string]any:
			next, ok := at[step]
			if !ok {
				return nil, fmt.Errorf("it has no %s of %s", step, path)
			}
			value = next
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(at) {
				return nil, fmt.Errorf("it has no %s of %s", step, path)
			}
			value = at[i]
		default:
			return nil, fmt.Errorf("it has no %s of %s", step, path)
		}
	}
	return value, nil
}

// fromText is a number where the text is one, nothing where it is empty.
func fromText(text string) any {
	if text == "" {
		return nil
	}
	if v, err := strconv.ParseInt(text, 10, 64); err == nil {
		return v
	}
	return text
}

// faults are what is wrong with the description.
func (cfg HTTPConfig) faults() []error {
	var faults []error
	bad := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if text, err := expand(cfg.URL, nil, sampleData()); err != nil {
		bad("url: %w", err)
	} else if _, err := parseOrigin(text); err != nil {
		bad("url: %w", err)
	}
	if len(cfg.Ops) == 0 {
		bad("ops: no request is described")
	}
	parse := func(where, text string) {
		if _, err := parseTemplate(text, nil); err != nil {
			bad("%s: %w", where, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Headers)) {
		parse("headers."+name, cfg.Headers[name])
	}
	for _, f := range slices.Sorted(maps.Keys(cfg.Ops)) {
		how := cfg.Ops[f]
		where := "ops." + f
		if !strings.HasPrefix(how.Path, "/") {
			bad("%s.path: %q must begin with /", where, how.Path)
		}
		parse(where+".path", how.Path)
		parse(where+".body", how.Body)
		for _, name := range slices.Sorted(maps.Keys(how.Headers)) {
			parse(where+".headers."+name, how.Headers[name])
		}
		seen := map[int]bool{}
		for _, status := range slices.Concat(how.OK, how.Nil, how.Fail) {
			if status < 200 || status > 599 {
				bad("%s: %d is no status of an answer", where, status)
			}
			if seen[status] {
				bad("%s: status %d cannot mean two things", where, status)
			}
			seen[status] = true
		}
		if v := how.Value; v != nil {
			n := 0
			for _, set := range []bool{v.JSON != "", v.Regexp != "", v.Text} {
				if set {
					n++
				}
			}
			if n != 1 {
				bad("%s.value: exactly one of json, regexp and text must be set", where)
			}
			if re, err := regexp.Compile(v.Regexp); err != nil {
				bad("%s.value.regexp: %w", where, err)
			} else if v.Regexp != "" && re.NumSubexp() < 1 {
				bad("%s.value.regexp: it needs a group: what the value is", where)
			}
		}
	}
	return faults
}
