package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"epiphyte/internal/api"
)

// stats shows the counters in the order of the reply.
func (c *Client) stats(ctx context.Context, stdout io.Writer) error {
	if c.json {
		return c.document(ctx, stdout, api.StatsDocument)
	}
	doc, err := c.api.Document(ctx, api.StatsDocument)
	if err != nil {
		return err
	}
	w := table(stdout)
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	if err := printNumbers(d, w, ""); err != nil {
		return fmt.Errorf("read counters: %w", err)
	}
	return w.Flush()
}

// printNumbers prints one JSON value: a number with its name, or an object of
// numbers.
func printNumbers(d *json.Decoder, w io.Writer, name string) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	if token != json.Delim('{') {
		_, err := fmt.Fprintf(w, "%s\t%v\n", name, token)
		return err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		inner := fmt.Sprint(key)
		if name != "" {
			inner = name + "{" + inner + "}"
		}
		if err := printNumbers(d, w, inner); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// document prints one of the program's documents unchanged, on one line.
func (c *Client) document(ctx context.Context, stdout io.Writer, name string) error {
	doc, err := c.api.Document(ctx, name)
	if err != nil {
		return err
	}
	return printJSON(stdout, doc)
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// secondsValue reads a positive number of seconds.
func secondsValue(name string, dst *time.Duration) value {
	return value{kind: kindNumber, set: func(s string) error {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || !(f >= 0.01 && f <= 86400) {
			return fmt.Errorf("--%s must be a number of seconds, 0.01 to 86400", name)
		}
		*dst = time.Duration(f * float64(time.Second))
		return nil
	}}
}
