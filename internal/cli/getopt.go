package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// ownFlag marks (as a pflag annotation) the long options that are not in the slirp4netns
// contract. An abbreviation matches them only if it matches none of the contract's, so that
// adding one never makes a caller's abbreviation ambiguous.
const ownFlag = "epiphyte"

// dialect says how a command reads its arguments.
type dialect struct {
	prog string // leads every message
	// operandEnds stops at the first operand: what follows belongs to
	// somebody else (the command of run). Otherwise options may come after
	// operands, as getopt_long permutes them.
	operandEnds bool
	// boolArgument allows --flag=false. getopt_long refuses an argument to an
	// option that takes none.
	boolArgument bool
	// suggests has the error for an unknown option name one that may have been meant.
	suggests bool
}

// getopt reads args as getopt_long(3) of the GNU C library does and returns the
// options in pflag's plain form (--name or --name=value, in their order) and the
// operands. Reading stops at the first fault, which is returned together with
// the options before it: those are acted upon first, as getopt's caller would.
func (d dialect) getopt(fs *pflag.FlagSet, args []string) (options, operands []string, err error) {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			return options, append(operands, args...), nil
		case strings.HasPrefix(arg, "--"):
			var option string
			option, args, err = d.long(fs, arg[2:], args)
			if err != nil {
				return options, operands, err
			}
			options = append(options, option)
		case len(arg) > 1 && arg[0] == '-':
			var cluster []string
			cluster, args, err = d.short(fs, arg[1:], args)
			options = append(options, cluster...)
			if err != nil {
				return options, operands, err
			}
		case d.operandEnds:
			return options, append(append(operands, arg), args...), nil
		default:
			operands = append(operands, arg)
		}
	}
	return options, operands, nil
}

// long reads one long option, without its dashes, and takes its value from rest
// when it needs one and has none attached.
func (d dialect) long(fs *pflag.FlagSet, arg string, rest []string) (option string, remaining []string, err error) {
	name, value, attached := strings.Cut(arg, "=")
	flag, err := d.complete(fs, name)
	if err != nil {
		return "", rest, err
	}
	if flag.NoOptDefVal != "" {
		switch {
		case !attached && takesNext(flag, rest):
			return "--" + flag.Name + "=" + rest[0], rest[1:], nil
		case !attached:
			return "--" + flag.Name, rest, nil
		case !d.boolArgument:
			return "", rest, fmt.Errorf("%s: option '--%s' doesn't allow an argument", d.prog, flag.Name)
		}
	}
	if !attached {
		if len(rest) == 0 {
			return "", rest, fmt.Errorf("%s: option '--%s' requires an argument", d.prog, flag.Name)
		}
		value, rest = rest[0], rest[1:]
	}
	return "--" + flag.Name + "=" + value, rest, nil
}

// short reads one argument of clustered one-letter options, without its dash.
func (d dialect) short(fs *pflag.FlagSet, cluster string, rest []string) (options, remaining []string, err error) {
	for i := 0; i < len(cluster); i++ {
		letter := cluster[i : i+1]
		flag := fs.ShorthandLookup(letter)
		if flag == nil {
			return options, rest, fmt.Errorf("%s: invalid option -- '%s'", d.prog, letter)
		}
		value := cluster[i+1:]
		switch {
		case flag.NoOptDefVal == "":
		case value == "" && takesNext(flag, rest):
		case value != "" && takesNext(flag, []string{value}):
		default:
			options = append(options, "--"+flag.Name)
			continue
		}
		if value == "" {
			if len(rest) == 0 {
				return options, rest, fmt.Errorf("%s: option requires an argument -- '%s'", d.prog, letter)
			}
			value, rest = rest[0], rest[1:]
		}
		return append(options, "--"+flag.Name+"="+value), rest, nil
	}
	return options, rest, nil
}

// takesNext reports whether the next argument is the value of an option with an optional
// number.
func takesNext(flag *pflag.Flag, rest []string) bool {
	if flag.Value.Type() != kindNumber || len(rest) == 0 {
		return false
	}
	_, err := strconv.ParseFloat(rest[0], 64)
	return err == nil
}

// orMeant suggests an option for an unknown one.
func (d dialect) orMeant(fs *pflag.FlagSet, name string) string {
	if !d.suggests {
		return ""
	}
	var names []string
	fs.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return orMeant(name, names, func(word string) string { return "'--" + word + "'" })
}

// complete finds the flag called name, or the only one that name abbreviates.
func (d dialect) complete(fs *pflag.FlagSet, name string) (*pflag.Flag, error) {
	if flag := fs.Lookup(name); flag != nil {
		return flag, nil
	}
	var contract, own []*pflag.Flag
	fs.VisitAll(func(f *pflag.Flag) {
		if !strings.HasPrefix(f.Name, name) {
			return
		}
		if _, is := f.Annotations[ownFlag]; is {
			own = append(own, f)
		} else {
			contract = append(contract, f)
		}
	})
	matches := contract
	if len(matches) == 0 {
		matches = own
	}
	switch len(matches) {
	case 0:
		return nil, fmt.Errorf("%s: unrecognized option '--%s'%s", d.prog, name, d.orMeant(fs, name))
	case 1:
		return matches[0], nil
	}
	var possibilities strings.Builder
	for _, f := range matches {
		possibilities.WriteString(" '--" + f.Name + "'")
	}
	return nil, fmt.Errorf("%s: option '--%s' is ambiguous; possibilities:%s", d.prog, name, possibilities.String())
}
