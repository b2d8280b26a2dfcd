package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"epiphyte/internal/pasta"
)

// browser is net/http's client on a Unix socket.
func browser(t *testing.T, path string) *http.Client {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

const oneFlow = `{"flows":[{"proto":"tcp","guest":"10.0.2.100:40000","remote":"192.0.2.1:443","host":"198.51.100.7:50000","state":"open","origin":"guest","in_bytes":1099511627776,"out_bytes":2,"age_seconds":90,"idle_seconds":1.5}]}` + "\n"

// TestHTTPRoutes: the requests are in sequence, each depends on those before.
func TestHTTPRoutes(t *testing.T) {
	path, _, _ := serve(t, ListenHTTP)
	b := browser(t, path)
	for _, tt := range []struct {
		method, target, send string
		status               int
		want                 string // the whole body; with a final "...", its beginning
	}{
		{"GET", "/v1/ports", "", 200, `{"ports":[]}` + "\n"},
		{"POST", "/v1/ports", `{"rule":"127.0.0.1:8080:80"}`, 201,
			`{"id":1,"proto":"tcp","host_addr":"127.0.0.1","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80}` + "\n"},
		{"POST", "/v1/ports", `{"proto":"udp","host_addr":"::","host_port":5353,"host_port_end":5360,"guest_addr":"fd00::9","guest_port":53}`, 201,
			`{"id":2,"proto":"udp","host_addr":"::","host_port":5353,"guest_addr":"fd00::9","guest_port":53,"host_port_end":5360}` + "\n"},
		{"POST", "/v1/ports", `{"rule":"90","guest_addr":"10.0.2.7"}`, 201,
			`{"id":3,"proto":"tcp","host_addr":"0.0.0.0","host_port":90,"guest_addr":"10.0.2.7","guest_port":90}` + "\n"},
		{"GET", "/v1/ports/1", "", 200,
			`{"id":1,"proto":"tcp","host_addr":"127.0.0.1","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80}` + "\n"},
		{"DELETE", "/v1/ports/1", "", 204, ""},
		{"DELETE", "/v1/ports/1", "", 404, `{"error":{"desc":"id 1: no published port has it"}}` + "\n"},
		{"DELETE", "/v1/ports?id=2", "", 204, ""},
		{"DELETE", "/v1/ports", "", 400, `{"error":{"desc":"the id is missing...`},
		{"DELETE", "/v1/ports/x", "", 404, `{"error":...`},
		{"GET", "/v1/ports/1", "", 404, `{"error":...`},
		{"PUT", "/v1/ports/3", "", 405, `{"error":...`},
		{"PATCH", "/v1/ports", "", 405, `{"error":...`},
		{"POST", "/v1/flows", "{}", 405, `{"error":...`},
		{"POST", "/v1/ports", ``, 400, `{"error":{"desc":"the body is empty; an example of one is {\"rule\":\"8080:80\"}"}}` + "\n"},
		{"POST", "/v1/ports", `[]`, 400, `{"error":{"desc":"body: ...`},
		{"POST", "/v1/ports", `{"hostport":1}`, 400, `{"error":{"desc":"body: json: unknown field...`},
		{"POST", "/v1/ports", `{"host_port":65536}`, 400, `{"error":{"desc":"a number from 1 to 65535 is required, not 65536","field":"host_port"}}` + "\n"},
		{"POST", "/v1/ports", `{"host_port":-1}`, 400, `{"error":{"desc":"a number from 1 to 65535 is required, not -1","field":"host_port"}}` + "\n"},
		{"POST", "/v1/ports", `{}`, 400, `{"error":{"desc":"a number from 1 to 65535 is required, not 0","field":"host_port"}}` + "\n"},
		{"POST", "/v1/ports", `{"host_port":80,"host_addr":"x"}`, 400, `{"error":{"desc":"\"x\" is not an IP address","field":"host_addr"}}` + "\n"},
		{"POST", "/v1/ports", `{"host_port":80,"guest_addr":"x"}`, 400, `{"error":{"desc":"\"x\" is not an IP address","field":"guest_addr"}}` + "\n"},
		{"POST", "/v1/ports", `{"host_port":80,"proto":"sctp"}`, 400, `{"error":{"desc":"\"sctp\" is neither tcp nor udp","field":"proto"}}` + "\n"},
		{"POST", "/v1/ports", `{"rule":"80:81:82:83"}`, 400, `{"error":...`},
		{"POST", "/v1/ports", `{"rule":"80","proto":"udp"}`, 400, `{"error":{"desc":"only guest_addr may be given together with rule"}}` + "\n"},
		{"POST", "/v1/ports", `{"id":7,"host_port":80}`, 400, `{"error":{"desc":"id cannot be chosen"}}` + "\n"},
		{"POST", "/v1/ports", "{" + strings.Repeat(" ", 60_000) + `"rule":"80","proto":"udp"}`, 400, `{"error":{"desc":"only guest_addr...`},
		{"POST", "/v1/ports", `{"host_port":81}`, 409, `{"error":{"desc":"publish 0.0.0.0:81: listen on tcp 0.0.0.0:81: address already in use (another program has the port)","cause":"EADDRINUSE"}}` + "\n"},
		{"POST", "/v1/ports", `{"host_port":82}`, 403, `{"error":{"desc":"publish 0.0.0.0:82: listen on tcp 0.0.0.0:82: permission denied","cause":"EACCES"}}` + "\n"},
		{"GET", "/v1/ports", "", 200, `{"ports":[{"id":3,...`},
		{"HEAD", "/v1/ports", "", 200, ""},
		{"GET", "/v1/forwards", "", 200, `{"forwards":[]}` + "\n"},
		{"PATCH", "/v1/forwards", `{"add":["-t 0.0.0.0/8080:10.89.0.2/80","-u 53,54"]}`, 204, ""},
		{"PATCH", "/v1/forwards", `{"add":["-t 0.0.0.0/8080:10.89.0.2/80"],"delete":["-u 54","-T 1"]}`, 204, ""},
		{"GET", "/v1/forwards", "", 200, `{"forwards":["-t 0.0.0.0/8080:10.89.0.2/80","-u 53"]}` + "\n"},
		{"PATCH", "/v1/forwards", `{"delete":["-u 53"],"add":["-t 8080"]}`, 409, `{"error":{"desc":"-t 8080 conflicts with -t 0.0.0.0/8080:10.89.0.2/80: port 8080 is forwarded already; delete that one first, or choose another port"}}` + "\n"},
		{"PATCH", "/v1/forwards", `{"add":["-t 81"]}`, 409, `{"error":{"desc":"forward -t 81: listen on tcp [::]:81: address already in use","cause":"EADDRINUSE"}}` + "\n"},
		{"PATCH", "/v1/forwards", `{"add":["-t 82"]}`, 403, `{"error":{"desc":"forward -t 82: ...`},
		{"PATCH", "/v1/forwards", `{"add":["-t 0"]}`, 400, `{"error":{"desc":"-t \"0\": \"0\" is not a port, ...`},
		{"PATCH", "/v1/forwards", `{"clear":["TAP"]}`, 400, `{"error":{"desc":"\"TAP\" has no ports to clear: ...`},
		{"PATCH", "/v1/forwards", `{"rule":"80"}`, 400, `{"error":{"desc":"body: json: unknown field...`},
		{"PATCH", "/v1/forwards", ``, 400, `{"error":{"desc":"the body is empty; an example of one is {\"add\":[\"-t 8080:80\"]}"}}` + "\n"},
		{"GET", "/v1/forwards", "", 200, `{"forwards":["-t 0.0.0.0/8080:10.89.0.2/80","-u 53"]}` + "\n"},
		{"PATCH", "/v1/forwards", `{"clear":["HOST","SPLICE"],"add":["-T 80"]}`, 204, ""},
		{"GET", "/v1/forwards", "", 200, `{"forwards":["-T 80"]}` + "\n"},
		{"GET", "/v1/flows", "", 200, oneFlow},
		{"GET", "/v1/stats", "", 200, `{"uptime_seconds":12,"sent_bytes":{"tcp":1152921504606846976,"udp":2}}` + "\n"},
		{"GET", "/metrics", "", 200, "# HELP epiphyte_uptime_seconds Seconds since the start.\n# TYPE epiphyte_uptime_seconds gauge\nepiphyte_uptime_seconds 12\n" +
			"# HELP epiphyte_sent_bytes_total Bytes from the guest.\n# TYPE epiphyte_sent_bytes_total counter\n" +
			"epiphyte_sent_bytes_total{proto=\"tcp\"} 1152921504606846976\nepiphyte_sent_bytes_total{proto=\"udp\"} 2\n"},
		{"GET", "/", "", 404, `{"error":...`},
		{"GET", "/v1/ports/", "", 404, `{"error":...`},
		{"GET", "/v2/ports", "", 404, `{"error":...`},
	} {
		req, err := http.NewRequest(tt.method, "http://localhost"+tt.target, strings.NewReader(tt.send))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := b.Do(req)
		if err != nil {
			t.Fatalf("%s %s: %v", tt.method, tt.target, err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatalf("%s %s: %v", tt.method, tt.target, err)
		}
		got := string(body)
		begin, cut := strings.CutSuffix(tt.want, "...")
		if resp.StatusCode != tt.status || got != tt.want && !(cut && strings.HasPrefix(got, begin)) {
			t.Errorf("%s %s %.60s\n got %d %s\nwant %d %s", tt.method, tt.target, tt.send, resp.StatusCode, got, tt.status, tt.want)
		}
		if resp.StatusCode == 201 && !strings.HasPrefix(resp.Header.Get("Location"), "/v1/ports/") {
			t.Errorf("Location: %q", resp.Header.Get("Location"))
		}
		if resp.StatusCode == 405 && resp.Header.Get("Allow") == "" {
			t.Errorf("%s %s: no Allow", tt.method, tt.target)
		}
		if kind := resp.Header.Get("Content-Type"); kind != kindJSON && tt.status != 204 && tt.target != "/metrics" {
			t.Errorf("%s %s: Content-Type %q", tt.method, tt.target, kind)
		}
	}
}

// TestHTTPWire: replies to requests that are unusual or wrong.
func TestHTTPWire(t *testing.T) {
	path, _, _ := serve(t, ListenHTTP)
	const list = "{\"ports\":[]}\n"
	for _, tt := range []struct {
		name, send string
		status     string // of the first response
		end        string // of the last response
	}{
		{"1.0", "GET /v1/ports HTTP/1.0\r\n\r\n", "200 OK", list},
		{"bare newlines", "GET /v1/ports HTTP/1.0\n\n", "200 OK", list},
		{"absolute form", "GET http://localhost/v1/ports HTTP/1.0\r\n\r\n", "200 OK", list},
		{"close", "GET /v1/ports HTTP/1.1\r\nHost: x\r\nConnection: foo, Close\r\n\r\n", "200 OK", list},
		{"two at once", "GET /v1/ports HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.0\r\n\r\n", "200 OK", list},
		{"body of a GET", "GET /v1/ports HTTP/1.1\r\nContent-Length: 4\r\n\r\nGET GET /v1/ports HTTP/1.0\r\n\r\n", "200 OK", list},
		{"not HTTP", listRequest + "\n", "400 Bad Request", "}}\n"},
		{"version", "GET / HTTP/2.0\r\n\r\n", "505 HTTP Version Not Supported", "}}\n"},
		{"preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 HTTP Version Not Supported", "}}\n"},
		{"no path", "OPTIONS * HTTP/1.1\r\n\r\n", "400 Bad Request", "}}\n"},
		{"field without colon", "GET / HTTP/1.1\r\nfoo\r\n\r\n", "400 Bad Request", "}}\n"},
		{"space before the first field", "GET / HTTP/1.1\r\n " + strings.Repeat("a", 100) + "\r\n\r\n", "400 Bad Request", "}}\n"},
		{"space before colon", "POST /v1/ports HTTP/1.1\r\nContent-Length : 13\r\n\r\n{\"rule\":\"80\"}", "400 Bad Request", "}}\n"},
		{"folded field", "GET /v1/ports HTTP/1.1\r\na: b\r\n c: d\r\n\r\n", "200 OK", list},
		{"carriage return", "GET / HTTP/1.1\r\na: b\rc\r\n\r\n", "400 Bad Request", "}}\n"},
		{"length", "POST /v1/ports HTTP/1.1\r\nContent-Length: +4\r\n\r\n", "400 Bad Request", "}}\n"},
		{"two lengths", "POST /v1/ports HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n", "400 Bad Request", "}}\n"},
		{"huge length", "POST /v1/ports HTTP/1.1\r\nContent-Length: 9223372036854775807\r\n\r\n", "413 Content Too Large", "}}\n"},
		{"chunks", "POST /v1/ports HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "411 Length Required", "}}\n"},
		{"long line", "GET /" + strings.Repeat("x", 100_000), "431 Request Header Fields Too Large", "}}\n"},
		{"many fields", "GET / HTTP/1.1\r\n" + strings.Repeat("a: b\r\n", 10_000), "431 Request Header Fields Too Large", "}}\n"},
		{"expectation", "POST /v1/ports HTTP/1.1\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 2\r\n\r\n[]", "100 Continue", "}}\n"},
		{"nothing", "", "", ""},
		{"half", "GET /v1/po", "", ""},
		{"half a body", "POST /v1/ports HTTP/1.1\r\nContent-Length: 4\r\n\r\n{", "", ""},
	} {
		c := connect(t, path)
		go func() {
			io.WriteString(c, tt.send)
			c.CloseWrite()
		}()
		got, _ := io.ReadAll(c)
		if tt.status == "" && len(got) != 0 || tt.status != "" && !bytes.HasPrefix(got, []byte("HTTP/1.1 "+tt.status+"\r\n")) || !bytes.HasSuffix(got, []byte(tt.end)) {
			t.Errorf("%s: %s", tt.name, got)
		}
	}
}

// TestHTTPNothingToShow: a program without flows and counters.
func TestHTTPNothingToShow(t *testing.T) {
	cfg, _ := testConfig()
	cfg.Flows, cfg.Stats = nil, nil
	s := &Server{cfg: cfg}
	for target, want := range map[string]string{"/v1/flows": "{\"flows\":[]}\n", "/v1/stats": "{}\n", "/metrics": ""} {
		got := s.route(t.Context(), &request{method: "GET", url: &url.URL{Path: target}})
		if string(got.body) != want || got.status != statusOK {
			t.Errorf("%s: %s %s", target, got.status, got.body)
		}
	}
}

func TestMetricsAreEscaped(t *testing.T) {
	got := string(metricsText([]Metric{{Name: "x", Help: "a\\b\nc", Label: "l", Values: []Value{{Label: "q\"\\\n", N: 1}}}}))
	want := "# HELP epiphyte_x a\\\\b\\nc.\n# TYPE epiphyte_x gauge\nepiphyte_x{l=\"q\\\"\\\\\\n\"} 1\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestHTTPBodyTooLarge: a client that sends on is told all the same.
func TestHTTPBodyTooLarge(t *testing.T) {
	path, _, _ := serve(t, ListenHTTP)
	c := Client{HTTP: path}
	var remote *Error
	err := c.ChangeForwards(t.Context(), pasta.Change{Clear: []string{strings.Repeat(" ", maxBody)}})
	if !errors.As(err, &remote) || !strings.Contains(err.Error(), "the body is longer than") {
		t.Error(err)
	}
}

// TestHTTPWithoutForwards: where they are none of the program's, their path does not exist.
func TestHTTPWithoutForwards(t *testing.T) {
	path, _, _ := serve(t, ListenHTTP, func(s *Server) { s.cfg.Forwards = nil })
	var remote *Error
	if _, err := (&Client{HTTP: path}).Forwards(t.Context()); !errors.As(err, &remote) || !strings.Contains(err.Error(), "/v1/forwards does not exist") {
		t.Error(err)
	}
}
