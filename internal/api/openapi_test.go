package api

import (
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"epiphyte/portfwd"
)

// document is the part of docs/openapi.yaml that is compared. Indentation tells
// paths, methods, schemas and their properties.
type document struct {
	operations []string            // "GET /v1/ports"
	schemas    map[string][]string // properties by schema, in their order
}

func readDocument(t *testing.T) document {
	t.Helper()
	b, err := os.ReadFile("../../docs/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d := document{schemas: map[string][]string{}}
	key := regexp.MustCompile(`^( *)([^ :]+):`)
	var path []string // of keys, by their indentation
	for line := range strings.Lines(string(b)) {
		m := key.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		depth := len(m[1]) / 2
		if depth > len(path) {
			continue // inside a list
		}
		path = append(path[:depth], m[2])
		switch {
		case depth == 2 && path[0] == "paths" && m[2] != "parameters":
			d.operations = append(d.operations, strings.ToUpper(m[2])+" "+path[1])
		case depth == 4 && path[1] == "schemas" && path[3] == "properties":
			d.schemas[path[2]] = append(d.schemas[path[2]], m[2])
		case depth == 6 && path[2] == "Error" && path[5] == "properties":
			d.schemas["error"] = append(d.schemas["error"], m[2])
		}
	}
	return d
}

// TestOpenAPIOperations: every operation of the document exists, and it has every
// route.
func TestOpenAPIOperations(t *testing.T) {
	d := readDocument(t)
	want := []string{
		"GET /v1/ports", "POST /v1/ports", "DELETE /v1/ports", "GET /v1/ports/{id}", "DELETE /v1/ports/{id}",
		"GET /v1/forwards", "PATCH /v1/forwards", "GET /v1/guest", "GET /v1/why", "GET /v1/flows", "GET /v1/stats", "GET /v1/policy", "PUT /v1/policy", "GET /v1/pcap", "GET /metrics",
	}
	if diff := cmp.Diff(want, d.operations); diff != "" {
		t.Error(diff)
	}
	for _, path := range []string{"/v1/ports", "/v1/ports/{id}", "/v1/forwards", guestPath, whyPath, "/v1/flows", "/v1/stats", policyPath, "/v1/pcap", "/metrics"} {
		body := `{"rule":"80"}`
		if path == forwardsPath {
			body = `{"add":["-t 80"]}`
		}
		if path == policyPath {
			body = "allow a.example"
		}
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH"} {
			s := discreet()
			s.cfg.Policy, s.cfg.Guest = new(fakePolicy), new(Guest)
			s.cfg.Why = func(string) (*Why, error) { return new(Why), nil }
			if _, err := s.cfg.Ports.Add(t.Context(), portfwd.Rule{HostPort: 8080}); err != nil {
				t.Fatal(err)
			}
			target := &url.URL{Path: strings.Replace(path, "{id}", "1", 1), RawQuery: "id=1"}
			status := s.route(t.Context(), &request{method: method, url: target, body: []byte(body)}).status
			want := status == statusBadMethod
			if slices.Contains(d.operations, method+" "+path) {
				want = strings.HasPrefix(status, "2")
			}
			if !want {
				t.Errorf("%s %s: status %s", method, path, status)
			}
		}
	}
}

// TestOpenAPISchemas have the fields of the types that are sent.
func TestOpenAPISchemas(t *testing.T) {
	d := readDocument(t)
	types := map[string]any{
		"Ports": portsDocument{}, "Port": Port{}, "Forwards": forwardsDocument{}, "ForwardsChange": ForwardsChange{}, "Flows": flowsDocument{}, "Flow": Flow{}, "Guest": Guest{}, "Why": Why{},
		"Policy": PolicyDocument{}, "PolicyRule": PolicyRule{}, "Error": errorDocument{}, "error": Error{},
	}
	for name, v := range types {
		if diff := cmp.Diff(fields(reflect.TypeOf(v)), d.schemas[name]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if len(d.schemas) != len(types) {
		t.Errorf("%d schemas", len(d.schemas))
	}
}

// fields are the names of a struct's fields in JSON.
func fields(typ reflect.Type) (names []string) {
	for field := range typ.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}
