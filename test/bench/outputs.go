package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// outputs are files that the user's own uid has opened: the runner's may not.
type outputs struct {
	json *os.File // nil: none
	doc  *os.File // nil: none
	svg  *os.File // pictures for the document, in JSON by name; nil: none
}

const envOutputs = "EPIPHYTE_BENCH_OUTPUTS"

// openOutputs opens the files in the first stage of this program, and gives the
// one that pictures come back in; it does nothing in the stages that follow,
// which inherit them.
func openOutputs(o options) (svg *os.File, err error) {
	if os.Getenv(envOutputs) != "" {
		return nil, nil
	}
	jsonFD, docFD, svgFD := -1, -1, -1
	// Not close-on-exec: the descriptors go through two further executions.
	if o.jsonPath != "" {
		if jsonFD, err = unix.Open(o.jsonPath, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND, 0o644); err != nil {
			return nil, fmt.Errorf("open %s: %w", o.jsonPath, err)
		}
	}
	if o.docPath != "" {
		if docFD, err = unix.Open(o.docPath, unix.O_RDWR, 0); err != nil {
			return nil, fmt.Errorf("open %s: %w", o.docPath, err)
		}
		if svgFD, err = unix.MemfdCreate("pictures", 0); err != nil {
			return nil, fmt.Errorf("make file of pictures: %w", err)
		}
		svg = os.NewFile(uintptr(svgFD), "pictures")
	}
	return svg, os.Setenv(envOutputs, fmt.Sprintf("%d %d %d", jsonFD, docFD, svgFD))
}

// inheritOutputs takes the files over in the runner and keeps them from what
// it starts.
func inheritOutputs() (out outputs, err error) {
	var jsonFD, docFD, svgFD int
	if _, err := fmt.Sscanf(os.Getenv(envOutputs), "%d %d %d", &jsonFD, &docFD, &svgFD); err != nil {
		return out, fmt.Errorf("parse %s: %w", envOutputs, err)
	}
	if jsonFD >= 0 {
		unix.CloseOnExec(jsonFD)
		out.json = os.NewFile(uintptr(jsonFD), "samples")
	}
	if docFD >= 0 {
		unix.CloseOnExec(docFD)
		out.doc = os.NewFile(uintptr(docFD), "document")
	}
	if svgFD >= 0 {
		unix.CloseOnExec(svgFD)
		out.svg = os.NewFile(uintptr(svgFD), "pictures")
	}
	return out, nil
}

// document puts a run into the files that were asked for.
func (out outputs) document(b *bench, section string) error {
	if out.doc == nil {
		return nil
	}
	drawn := b.pictures()
	if err := rewrite(out.doc, section+pictureLinks(drawn, b.options.docPath)); err != nil {
		return err
	}
	if err := json.NewEncoder(out.svg).Encode(drawn); err != nil {
		return fmt.Errorf("write pictures: %w", err)
	}
	return nil
}

// rewrite replaces the generated section of a document.
func rewrite(f *os.File, section string) error {
	old, err := io.ReadAll(f)
	if err != nil {
		return fmt.Errorf("read document: %w", err)
	}
	text, err := replaceSection(string(old), section)
	if err != nil {
		return err
	}
	if err := f.Truncate(int64(len(text))); err != nil {
		return fmt.Errorf("write document: %w", err)
	}
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		return fmt.Errorf("write document: %w", err)
	}
	return f.Close()
}
