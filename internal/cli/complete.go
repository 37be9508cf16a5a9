package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// A word that can stand at some place of the command line.
type completion struct {
	path  string // the commands before it, separated by spaces; empty at the top
	word  string // a command, or a flag with its dashes
	help  string
	value bool     // a flag that takes a value
	enum  []string // the values it takes, if they are few
}

// completions walks the command tree.
func completions(node *kong.Node, path []string) []completion {
	var out []completion
	at := strings.Join(path, " ")
	for _, group := range node.AllFlags(true) {
		for _, f := range group {
			var enum []string
			if f.Enum != "" {
				enum = strings.Split(f.Enum, ",")
			}
			value := !f.IsBool()
			out = append(out, completion{path: at, word: "--" + f.Name, help: f.Help, value: value, enum: enum})
			if f.Short != 0 {
				out = append(out, completion{path: at, word: "-" + string(f.Short), help: f.Help, value: value, enum: enum})
			}
		}
	}
	for _, child := range node.Children {
		if child.Hidden || child.Type != kong.CommandNode {
			continue
		}
		out = append(out, completion{path: at, word: child.Name, help: firstSentence(child.Help)})
		out = append(out, completions(child, append(slices.Clone(path), child.Name))...)
	}
	return out
}

func firstSentence(s string) string {
	head, _, _ := strings.Cut(s, ". ")
	return strings.TrimSuffix(head, ".")
}

// Complete writes the completion script of a shell: bash, zsh or fish.
func Complete(w io.Writer, app *kong.Application, shell string) error {
	words := completions(app.Node, nil)
	t := NewText(w)
	switch shell {
	case "bash":
		completeBash(t, app.Name, words)
	case "zsh":
		completeZsh(t, app.Name, words)
	case "fish":
		completeFish(t, app.Name, words)
	default:
		return Usage("completion: no script for %q: bash, zsh or fish", shell)
	}
	return t.err
}

// byPath groups words under the commands before them, in order.
func byPath(words []completion) (paths []string, at map[string][]completion) {
	at = map[string][]completion{}
	for _, c := range words {
		if _, ok := at[c.path]; !ok {
			paths = append(paths, c.path)
		}
		at[c.path] = append(at[c.path], c)
	}
	slices.Sort(paths)
	return paths, at
}

// valueFlags are the patterns of flags whose next word is a value.
func valueFlags(words []completion) string {
	var out []string
	for _, c := range words {
		if c.value {
			out = append(out, c.word)
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), "|")
}

// enumCases writes a line for each flag that takes few values.
func enumCases(words []completion, line func(flag, values string)) {
	seen := map[string]bool{}
	for _, c := range words {
		if len(c.enum) == 0 || seen[c.word] {
			continue
		}
		seen[c.word] = true
		line(c.word, strings.Join(c.enum, " "))
	}
}

func completeBash(t *Text, name string, words []completion) {
	paths, at := byPath(words)
	t.Printf("# bash completion for %[1]s; load with: source <(%[1]s completion bash)\n_%[1]s() {\n", name)
	t.Printf(`  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" path="" word i skip=0
  COMPREPLY=()
  case "$prev" in
`)
	enumCases(words, func(flag, values string) {
		t.Printf("    %s) COMPREPLY=($(compgen -W \"%s\" -- \"$cur\")); return ;;\n", flag, values)
	})
	t.Printf(`    %[1]s) COMPREPLY=($(compgen -f -- "$cur")); return ;;
  esac
  for ((i = 1; i < COMP_CWORD; i++)); do
    word="${COMP_WORDS[i]}"
    if ((skip)); then skip=0; continue; fi
    case "$word" in
      --) COMPREPLY=($(compgen -c -- "$cur")); return ;;
      %[1]s) skip=1; continue ;;
      -*) continue ;;
    esac
    case "${path:+$path }$word" in
`, valueFlags(words))
	for _, p := range paths {
		if p != "" {
			t.Printf("      %q) path=%q ;;\n", p, p)
		}
	}
	t.Printf("    esac\n  done\n  case \"$path\" in\n")
	for _, p := range paths {
		list := make([]string, len(at[p]))
		for i, c := range at[p] {
			list[i] = c.word
		}
		t.Printf("    %q) COMPREPLY=($(compgen -W %q -- \"$cur\")) ;;\n", p, strings.Join(list, " "))
	}
	t.Printf("  esac\n}\ncomplete -o default -F _%[1]s %[1]s\n", name)
}

func completeZsh(t *Text, name string, words []completion) {
	paths, at := byPath(words)
	t.Printf("#compdef %[1]s\n# zsh completion for %[1]s; load with: source <(%[1]s completion zsh)\n_%[1]s() {\n", name)
	t.Printf(`  local at="" word i skip=0 prev="${words[CURRENT-1]}"
  local -a list
  case "$prev" in
`)
	enumCases(words, func(flag, values string) { t.Printf("    %s) compadd -- %s; return ;;\n", flag, values) })
	t.Printf(`    %[1]s) _files; return ;;
  esac
  for ((i = 2; i < CURRENT; i++)); do
    word="${words[i]}"
    if ((skip)); then skip=0; continue; fi
    case "$word" in
      --) _normal; return ;;
      %[1]s) skip=1; continue ;;
      -*) continue ;;
    esac
    case "${at:+$at }$word" in
`, valueFlags(words))
	for _, p := range paths {
		if p != "" {
			t.Printf("      %q) at=%q ;;\n", p, p)
		}
	}
	t.Printf("    esac\n  done\n  case \"$at\" in\n")
	for _, p := range paths {
		list := make([]string, len(at[p]))
		for i, c := range at[p] {
			list[i] = shellQuote(strings.ReplaceAll(c.word, ":", `\:`) + ":" + c.help)
		}
		t.Printf("    %q) list=(%s) ;;\n", p, strings.Join(list, " "))
	}
	t.Printf("  esac\n  _describe 'command' list || _files\n}\ncompdef _%[1]s %[1]s\n", name)
}

func completeFish(t *Text, name string, words []completion) {
	t.Printf("# fish completion for %[1]s; load with: %[1]s completion fish | source\n", name)
	paths, at := byPath(words)
	t.Printf(`function __%s_at
  set -l words (commandline -opc)
  set -e words[1]
  set -l path
  set -l skip 0
  for word in $words
    if test $skip = 1
      set skip 0
      continue
    end
    switch $word
      case %s
        set skip 1
        continue
      case '-*'
        continue
    end
    set -l next (string trim -- "$path $word")
    if contains -- $next %s
      set path $next
    end
  end
  test "$path" = "$argv[1]"
end
`, name, strings.ReplaceAll(valueFlags(words), "|", " "), quoteAll(paths))
	for _, p := range paths {
		for _, c := range at[p] {
			t.Printf("complete -c %s -n %s", name, shellQuote(fmt.Sprintf("__%s_at %q", name, p)))
			switch {
			case strings.HasPrefix(c.word, "--"):
				t.Printf(" -l %s", c.word[2:])
			case strings.HasPrefix(c.word, "-"):
				t.Printf(" -s %s", c.word[1:])
			default:
				t.Printf(" -f -a %s", c.word)
			}
			if c.value {
				t.Printf(" -r")
			}
			if len(c.enum) > 0 {
				t.Printf(" -f -a %s", shellQuote(strings.Join(c.enum, " ")))
			}
			t.Printf(" -d %s\n", shellQuote(c.help))
		}
	}
}

func quoteAll(words []string) string {
	out := make([]string, 0, len(words))
	for _, s := range words {
		if s != "" {
			out = append(out, shellQuote(s))
		}
	}
	return strings.Join(out, " ")
}

// shellQuote makes s one word for bash and zsh, and for fish as long as it
// holds no backslash.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
