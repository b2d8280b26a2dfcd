package netdef

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// extension of the files of definitions.
const extension = ".json"

// Load reads the definition of the name. It reports false if there is none.
func (p Paths) Load(name string) (Definition, bool, error) {
	if err := ValidName(name); err != nil {
		return Definition{}, false, err
	}
	return p.read(name)
}

// read is Load without checking that the name is valid.
func (p Paths) read(name string) (Definition, bool, error) {
	b, err := ReadRegular(p.File(name), maxFile, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return Definition{}, false, nil
	}
	if err != nil {
		return Definition{}, false, fmt.Errorf("read definition: %w", err)
	}
	d, err := decode(b)
	if err == nil && d.Name != name {
		err = fmt.Errorf("the name in it is %q: a network is called as its file is", d.Name)
	}
	if err != nil {
		return Definition{}, false, fmt.Errorf("read definition %s: %w", p.File(name), err)
	}
	return d, true, nil
}

// maxFile bounds what is read of a definition, in bytes.
const maxFile = 1 << 20

// ReadRegular reads a file of at most size bytes; flags are further ones of open(2). Guests that
// have the user's files may have put anything in its place, so anything but a regular file is
// an error, and not waited for.
func ReadRegular(path string, size int64, flags int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|flags, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > size {
		return nil, fmt.Errorf("%s is not a regular file of %d bytes at most", path, size)
	}
	return io.ReadAll(io.LimitReader(f, size)) // it may grow
}

func decode(b []byte) (d Definition, err error) {
	r := json.NewDecoder(bytes.NewReader(b))
	r.DisallowUnknownFields()
	if err := r.Decode(&d); err != nil {
		return d, err
	}
	if _, err := r.Token(); err != io.EOF {
		return d, errors.New("there is something behind the definition")
	}
	return d, d.Validate()
}

// Save writes the definition, replacing one of the same name. It is on the disk when Save
// returns.
func (p Paths) Save(d Definition) error {
	if err := d.Validate(); err != nil {
		return err
	}
	b, err := json.MarshalIndent(d, "", "  ")
	if err == nil {
		err = os.MkdirAll(p.Config, 0o700)
	}
	if err == nil {
		err = Replace(p.File(d.Name), append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("save definition of network %s: %w", d.Name, err)
	}
	return nil
}

// Replace writes a file of mode 0600 beside the path and renames it, so that a reader gets
// the old content or the new. It is on the disk when Replace returns.
func Replace(path string, content []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = cmp.Or(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir writes the names in a directory to the disk.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Remove deletes the definition. The error is fs.ErrNotExist if there is none.
func (p Paths) Remove(name string) error {
	err := ValidName(name)
	if err == nil {
		err = os.Remove(p.File(name))
	}
	if err != nil {
		return fmt.Errorf("remove definition: %w", err)
	}
	return nil
}

// List reads all definitions, sorted by name. The error names the files that are no
// definitions; the others are listed all the same.
func (p Paths) List() ([]Definition, error) {
	entries, err := os.ReadDir(p.Config)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list definitions: %w", err)
	}
	var all []Definition
	var broken []error
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), extension)
		if !ok || strings.HasPrefix(name, ".") {
			continue
		}
		d, ok, err := p.read(name)
		if err != nil {
			broken = append(broken, err)
		} else if ok { // it may have been removed meanwhile
			all = append(all, d)
		}
	}
	slices.SortFunc(all, func(a, b Definition) int { return strings.Compare(a.Name, b.Name) })
	return all, errors.Join(broken...)
}

// Subnets lists the subnets of all definitions except the named one. With an error, which is
// List's, it still returns those of the valid definitions.
func (p Paths) Subnets(name string) ([]netip.Prefix, error) {
	all, err := p.List()
	var taken []netip.Prefix
	for _, d := range all {
		for _, s := range []netip.Prefix{d.Subnet, d.Subnet6} {
			if d.Name != name && s.IsValid() {
				taken = append(taken, s)
			}
		}
	}
	return taken, err
}
