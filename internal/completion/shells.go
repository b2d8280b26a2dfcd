package completion

import (
	"fmt"
	"strings"
)

// words are the options of a command as they are typed.
func (c Command) words() (list []string) {
	for _, o := range c.Options {
		list = append(list, "--"+o.Name)
		if o.Short != "" {
			list = append(list, "-"+o.Short)
		}
	}
	return list
}

// ofFiles and ofOthers are the options, as they are typed, behind which a file or another
// argument comes.
func (p Program) ofFiles() string  { return p.taking(true) }
func (p Program) ofOthers() string { return p.taking(false) }

func (p Program) taking(file bool) string {
	seen := map[string]bool{}
	var list []string
	for _, c := range p.Commands {
		for _, o := range c.Options {
			if o.Argument == "" || o.TakesFile() != file || seen[o.Name] {
				continue
			}
			seen[o.Name] = true
			list = append(list, "--"+o.Name)
		}
	}
	return strings.Join(list, "|")
}

// groups are the commands that have commands themselves, as a pattern.
func (p Program) groups() string {
	list := []string{"none"}
	for _, c := range p.Commands[1:] {
		if len(c.Commands) > 0 {
			list = append(list, c.Name)
		}
	}
	return strings.Join(list, "|")
}

// walk sets key to the command that the words before the cursor name, in the language that
// bash and zsh share. first is the index of the word behind the program's name.
func (p Program) walk(words, first, cursor string) string {
	return fmt.Sprintf(`  local key= word i
  for ((i = %[2]s; i < %[3]s; i++)); do
    word=${%[1]s[i]}
    case $word in
    --) [[ $key == run ]] && key=command; break ;;
    -*) ;;
    *)
      case $key in
      '') key=$word ;;
      %[4]s) key="$key $word" ;;
      run) key=command; break ;;
      esac ;;
    esac
  done
`, words, first, cursor, p.groups())
}

// Bash is a completion function for bash, which needs no other.
func (p Program) Bash() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# bash completion for %s, made from its help texts.\n_%[1]s() {\n", p.Name)
	b.WriteString("  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} options= commands=\n")
	b.WriteString(p.walk("COMP_WORDS", "1", "COMP_CWORD"))
	fmt.Fprintf(&b, "  COMPREPLY=()\n  case $prev in\n  %s) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n  %s) return ;;\n  esac\n", p.ofFiles(), p.ofOthers())
	b.WriteString("  case $key in\n")
	for _, c := range p.Commands {
		fmt.Fprintf(&b, "  '%s') options='%s' commands='%s' ;;\n", c.Name, strings.Join(c.words(), " "), strings.Join(c.Commands, " "))
	}
	b.WriteString("  esac\n" +
		"  if [[ $key == command ]]; then COMPREPLY=($(compgen -f -- \"$cur\"))\n" +
		"  elif [[ $cur == -* ]]; then COMPREPLY=($(compgen -W \"$options\" -- \"$cur\"))\n" +
		"  elif [[ $key == run ]]; then COMPREPLY=($(compgen -c -- \"$cur\"))\n" +
		"  elif [[ -n $commands ]]; then COMPREPLY=($(compgen -W \"$commands\" -- \"$cur\"))\n" +
		"  else COMPREPLY=($(compgen -f -- \"$cur\"))\n  fi\n}\n")
	fmt.Fprintf(&b, "complete -o filenames -F _%s %[1]s\n", p.Name)
	return b.String()
}

// Zsh is a completion function for zsh.
func (p Program) Zsh() string {
	quote := func(s string) string {
		return "'" + strings.NewReplacer("'", "'\\''", ":", "\\:").Replace(s) + "'"
	}
	describe := func(name, about string) string {
		return "'" + name + ":" + strings.TrimPrefix(quote(about), "'")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "#compdef %s\n# made from its help texts\n_%[1]s() {\n  local -a options commands\n", p.Name)
	b.WriteString(p.walk("words", "2", "CURRENT"))
	fmt.Fprintf(&b, "  case ${words[CURRENT-1]} in\n  %s) _files; return ;;\n  %s) return ;;\n  esac\n  case $key in\n", p.ofFiles(), p.ofOthers())
	for _, c := range p.Commands {
		fmt.Fprintf(&b, "  '%s')\n    options=(", c.Name)
		for _, o := range c.Options {
			fmt.Fprintf(&b, "\n      %s", describe("--"+o.Name, o.About))
		}
		b.WriteString(")\n")
		if len(c.Commands) > 0 {
			b.WriteString("    commands=(")
			for _, name := range c.Commands {
				fmt.Fprintf(&b, "\n      %s", describe(name, p.about(c, name)))
			}
			b.WriteString(")\n")
		}
		b.WriteString("    ;;\n")
	}
	b.WriteString("  esac\n" +
		"  if [[ $key == command ]]; then _files\n" +
		"  elif [[ $PREFIX == -* ]]; then _describe option options\n" +
		"  elif [[ $key == run ]]; then _command_names -e\n" +
		"  elif (( $#commands )); then _describe command commands\n" +
		"  else _files\n  fi\n}\n")
	fmt.Fprintf(&b, "_%s \"$@\"\n", p.Name)
	return b.String()
}

// about finds what is said of a command of c.
func (p Program) about(c Command, name string) string {
	full := strings.TrimSpace(c.Name + " " + name)
	for _, other := range p.Commands {
		if other.Name == full {
			return other.About
		}
	}
	return ""
}

// Fish is a list of completions for fish.
func (p Program) Fish() string {
	quote := func(s string) string { return "'" + strings.NewReplacer("\\", "\\\\", "'", "\\'").Replace(s) + "'" }
	var b strings.Builder
	fmt.Fprintf(&b, "# fish completion for %s, made from its help texts.\n", p.Name)
	for _, c := range p.Commands {
		condition := "__fish_use_subcommand"
		if c.Name != "" {
			condition = "__fish_seen_subcommand_from " + strings.ReplaceAll(c.Name, " ", "; and __fish_seen_subcommand_from ")
		}
		for _, name := range c.Commands {
			only := condition
			if c.Name != "" {
				only += "; and not __fish_seen_subcommand_from " + strings.Join(c.Commands, " ")
			}
			fmt.Fprintf(&b, "complete -c %s -f -n %s -a %s -d %s\n", p.Name, quote(only), name, quote(p.about(c, name)))
		}
		for _, o := range c.Options {
			fmt.Fprintf(&b, "complete -c %s -n %s -l %s", p.Name, quote(condition), o.Name)
			if o.Short != "" {
				b.WriteString(" -s " + o.Short)
			}
			switch {
			case o.TakesFile():
				b.WriteString(" -r -F")
			case o.Argument != "":
				b.WriteString(" -x")
			default:
				b.WriteString(" -f")
			}
			fmt.Fprintf(&b, " -d %s\n", quote(o.About))
		}
	}
	return b.String()
}
