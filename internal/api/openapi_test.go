package api

import (
	"bytes"
	"encoding/json"
	"net/url"
	"os"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"epiphyte/portfwd"
)

// document is the part of docs/openapi.yaml that is compared.
type document struct {
	Paths      map[string]map[string]yaml.Node
	Components struct{ Schemas map[string]schema }

	operations []string // "GET /v1/ports", in their order
}

// schema is one of an object.
type schema struct {
	Required   []string
	Properties yaml.Node // a mapping, in its order
}

// names are the schema's properties, in their order.
func (s schema) names() (names []string) {
	for i := 0; i < len(s.Properties.Content); i += 2 {
		names = append(names, s.Properties.Content[i].Value)
	}
	return names
}

// readDocument reads the whole document; a key that is there twice is an error.
func readDocument(t *testing.T) (d document, whole yaml.Node) {
	t.Helper()
	b, err := os.ReadFile("../../docs/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var unique map[string]any
	for _, v := range []any{&unique, &d, &whole} {
		if err := yaml.Unmarshal(b, v); err != nil {
			t.Fatal(err)
		}
	}
	for path, item := range d.Paths {
		for method := range item {
			if method != "parameters" {
				d.operations = append(d.operations, strings.ToUpper(method)+" "+path)
			}
		}
	}
	return d, whole
}

// TestOpenAPIOperations: every operation of the document exists, and it has every
// route.
func TestOpenAPIOperations(t *testing.T) {
	d, _ := readDocument(t)
	want := []string{
		"GET /v1/ports", "POST /v1/ports", "DELETE /v1/ports", "GET /v1/ports/{id}", "DELETE /v1/ports/{id}",
		"GET /v1/forwards", "PATCH /v1/forwards", "GET /v1/guest", "GET /v1/why", "GET /v1/flows", "GET /v1/stats", "GET /v1/policy", "PUT /v1/policy", "GET /v1/pcap", "GET /metrics",
	}
	slices.Sort(want)
	slices.Sort(d.operations)
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
			s.cfg.Why = func(_, _ string) (*Why, error) { return new(Why), nil }
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
	d, _ := readDocument(t)
	types := documented()
	for name, v := range types {
		in := d.Components.Schemas[name]
		names, always := fields(reflect.TypeOf(v))
		if diff := cmp.Diff(names, in.names()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if name == "Port" || name == "ForwardsChange" {
			continue // which requests have, too: what they need is told in words
		}
		if diff := cmp.Diff(always, in.Required); diff != "" {
			t.Errorf("required of %s: %s", name, diff)
		}
	}
	var inner struct{ Error schema }
	outer := d.Components.Schemas["Error"]
	if err := outer.Properties.Decode(&inner); err != nil {
		t.Fatal(err)
	}
	if names, _ := fields(reflect.TypeFor[Error]()); !slices.Equal(names, inner.Error.names()) {
		t.Errorf("of an error: %q, documented are %q", names, inner.Error.names())
	}
	if len(d.Components.Schemas) != len(types) {
		t.Errorf("%d schemas, %d types", len(d.Components.Schemas), len(types))
	}
}

// documented are the types by the names of their schemas.
func documented() map[string]any {
	return map[string]any{
		"Ports": portsDocument{}, "Port": Port{}, "Forwards": forwardsDocument{}, "ForwardsChange": ForwardsChange{},
		"Flows": flowsDocument{}, "Flow": Flow{}, "Guest": Guest{}, "Why": Why{},
		"Policy": PolicyDocument{}, "PolicyRule": PolicyRule{}, "Error": errorDocument{},
	}
}

// TestOpenAPIExamples are requests that are understood: no field of theirs is unknown.
func TestOpenAPIExamples(t *testing.T) {
	_, whole := readDocument(t)
	seen := 0
	walk(&whole, func(media map[string]yaml.Node) {
		var example struct {
			Schema struct {
				Ref string `yaml:"$ref"`
			}
			Examples map[string]struct{ Value map[string]any }
		}
		for key, into := range map[string]any{"schema": &example.Schema, "examples": &example.Examples} {
			node, ok := media[key]
			if !ok {
				return
			}
			if err := node.Decode(into); err != nil {
				t.Error(err)
			}
		}
		name := path.Base(example.Schema.Ref)
		for title, x := range example.Examples {
			body, err := json.Marshal(x.Value)
			if err != nil {
				t.Fatal(err)
			}
			decoder := json.NewDecoder(bytes.NewReader(body))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(reflect.New(reflect.TypeOf(documented()[name])).Interface()); err != nil {
				t.Errorf("example %s of %s: %v", title, name, err)
			}
			seen++
		}
	})
	if seen < 4 {
		t.Errorf("%d examples", seen)
	}
}

// TestOpenAPIReferencesLead somewhere.
func TestOpenAPIReferencesLead(t *testing.T) {
	_, whole := readDocument(t)
	walk(&whole, func(m map[string]yaml.Node) {
		ref, ok := m["$ref"]
		if !ok {
			return
		}
		at := *whole.Content[0]
		for key := range strings.SplitSeq(strings.TrimPrefix(ref.Value, "#/"), "/") {
			var inner map[string]yaml.Node
			if err := at.Decode(&inner); err != nil {
				t.Fatal(err)
			}
			if at, ok = inner[key]; !ok {
				t.Fatalf("line %d: %s leads nowhere", ref.Line, ref.Value)
			}
		}
	})
}

// walk calls do with each mapping of a document.
func walk(n *yaml.Node, do func(map[string]yaml.Node)) {
	var m map[string]yaml.Node
	if n.Kind == yaml.MappingNode && n.Decode(&m) == nil {
		do(m)
	}
	for _, c := range n.Content {
		walk(c, do)
	}
}

// fields are the names of a struct's fields in JSON, and those that are always there.
func fields(typ reflect.Type) (names, always []string) {
	for field := range typ.Fields() {
		name, option, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
		if !strings.Contains(option, "omit") {
			always = append(always, name)
		}
	}
	return names, always
}
