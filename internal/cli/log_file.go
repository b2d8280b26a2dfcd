package cli

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/pflag"

	"epiphyte/internal/logfile"
)

// addLogFile adds the flags of the log file, and --quiet.
func (o *Options) addLogFile(fs *pflag.FlagSet) {
	if fs.Lookup("quiet") == nil {
		own(switchFlag(fs, "quiet", "", "log errors only, as --log-level=error does, and warn of nothing", func() error {
			o.LogLevel, o.Quiet = slog.LevelError, true
			return nil
		}))
	}
	addMissing(fs, "log-file", fileValue("log-file", &o.LogFile), "log to `FILE` in place of stderr")
	addMissing(fs, "log-size", sizeValue("log-size", &o.LogSize, logfile.MinSize), "let the log file grow to `SIZE` bytes, or so many k, M or G, then drop its older lines")
}

// toFile sends the log to the file of --log-file, if there is one. The line that explains an
// unsuccessful end goes both there and to stderr.
func (r *reporter) toFile(o *Options) error {
	if o.LogFile == "" {
		return nil
	}
	program, err := os.Executable()
	if err != nil {
		program = r.prog
	}
	// The first line is the contract's.
	file, err := logfile.Open(o.LogFile, o.LogSize, fmt.Sprintf("%s %s: %s (%d)", r.prog, Version, program, os.Getpid()))
	if err != nil {
		return err
	}
	r.file, r.log = file, r.logger(file, o)
	return nil
}
