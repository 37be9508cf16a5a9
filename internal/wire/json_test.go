package wire_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"holdfast.dev/engine"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/internal/gen/holdfast/v1/holdfastv1connect"
	"holdfast.dev/internal/wire"
)

// echo answers Acquire with what it understood.
type echo struct {
	holdfastv1connect.UnimplementedLockServiceHandler
}

func (echo) Acquire(_ context.Context, req *v1.AcquireRequest) (*v1.AcquireResponse, error) {
	mode := "as long as the call may last"
	if d := wire.Duration(req.GetWait()); d != nil {
		mode = d.String()
	}
	return &v1.AcquireResponse{Name: req.GetName(), Mode: mode, Token: 1 << 60, RequestId: req.GetRequestId()}, nil
}

func TestJSON(t *testing.T) {
	_, h := holdfastv1connect.NewLockServiceHandler(echo{}, wire.JSON()...)
	for body, want := range map[string]string{
		``:                                `{"token":"1152921504606846976","mode":"as long as the call may last"}`,
		`{"name":"a","wait":"0s"}`:        `{"name":"a","token":"1152921504606846976","mode":"0s"}`,
		`{"requestId":"x","wait":"1.5s"}`: `{"token":"1152921504606846976","mode":"1.5s","request_id":"x"}`,
		`{"request_id":"x","wait":"60s"}`: `{"token":"1152921504606846976","mode":"1m0s","request_id":"x"}`,
		`{"wiat":"0s"}`:                   "wiat",
		`{"wait":"1m"}`:                   "invalid_argument",
		`{"name":`:                        "invalid_argument",
	} {
		for _, kind := range []string{"application/json", "application/json; charset=utf-8"} {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, holdfastv1connect.LockServiceAcquireProcedure, strings.NewReader(body))
			r.Header.Set("Content-Type", kind)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			b, err := io.ReadAll(w.Body)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.ReplaceAll(strings.ReplaceAll(string(b), `": `, `":`), `, "`, `,"`)
			if ok := strings.HasPrefix(want, "{") && got == want || !strings.HasPrefix(want, "{") && strings.Contains(got, want) && w.Code == http.StatusBadRequest; !ok {
				t.Errorf("%s %s: %d %s, want %s", kind, body, w.Code, got, want)
			}
		}
	}
}

func TestBytes(t *testing.T) {
	for _, c := range []struct {
		m    *v1.PutRequest
		want string
	}{
		{&v1.PutRequest{}, ""},
		{&v1.PutRequest{Content: &v1.PutRequest_Text{Text: "ü"}}, "ü"},
		{&v1.PutRequest{Content: &v1.PutRequest_Value{Value: []byte{0xff}}}, "\xff"},
	} {
		if got := string(wire.Bytes(c.m)); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// The principal is the node's to say and does not look like the client's
// metadata.
func TestSessionToProto(t *testing.T) {
	rec := engine.SessionRecord{ID: 7, TTL: time.Second, Metadata: map[string]string{"zone": "a", wire.PrincipalKey: "alice"}}
	m := wire.SessionToProto(rec)
	if m.GetSession() != "0000000000000007" || m.GetPrincipal() != "alice" || len(m.GetMetadata()) != 1 || len(rec.Metadata) != 2 {
		t.Errorf("got %v", m)
	}
	if wire.Timestamp(time.Time{}) != nil || wire.Timestamp(time.Unix(1, 0)).GetSeconds() != 1 {
		t.Error("the zero time is not absent")
	}
}
