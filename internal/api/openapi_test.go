package api

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// document is docs/openapi.yaml as far as it is compared: it is laid out so that
// indentation tells paths, methods, schemas and their properties.
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

// TestOpenAPIOperations: every operation of the document exists, and no route is
// left out of it.
func TestOpenAPIOperations(t *testing.T) {
	d := readDocument(t)
	want := []string{
		"GET /v1/ports", "POST /v1/ports", "DELETE /v1/ports", "GET /v1/ports/{id}", "DELETE /v1/ports/{id}",
		"GET /v1/flows", "GET /v1/stats", "GET /metrics",
	}
	if diff := cmp.Diff(want, d.operations); diff != "" {
		t.Error(diff)
	}
	for _, path := range []string{"/v1/ports", "/v1/ports/{id}", "/v1/flows", "/v1/stats", "/metrics"} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH"} {
			s := discreet()
			if _, err := s.cfg.Ports.Add(t.Context(), mustRule(t, "8080")); err != nil {
				t.Fatal(err)
			}
			req := &request{method: method, path: strings.Replace(path, "{id}", "1", 1), query: "id=1", body: []byte(`{"rule":"80"}`)}
			status := s.route(t.Context(), req).status
			if documented := slices.Contains(d.operations, method+" "+path); documented != (status < 300) || !documented && status != 405 {
				t.Errorf("%s %s: documented %v, status %d", method, path, documented, status)
			}
		}
	}
}

// TestOpenAPISchemas have the fields of the types that are sent.
func TestOpenAPISchemas(t *testing.T) {
	d := readDocument(t)
	for name, v := range map[string]any{
		"Ports": portsDocument{}, "Port": Port{}, "Rule": ruleJSON{},
		"Flows": flowsDocument{}, "Flow": flowJSON{}, "Error": problemDocument{}, "error": problemJSON{},
	} {
		var want []string
		for f := range fields(reflect.TypeOf(v)) {
			want = append(want, f)
		}
		if diff := cmp.Diff(want, d.schemas[name]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if len(d.schemas) != 7 {
		t.Errorf("%d schemas", len(d.schemas))
	}
}

// fields yields the names that a struct's fields have in JSON.
func fields(typ reflect.Type) func(func(string) bool) {
	return func(yield func(string) bool) {
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if !yield(name) {
				return
			}
		}
	}
}
