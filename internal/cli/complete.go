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
	switch shell {
	case "bash":
		return completeBash(w, app.Name, words)
	case "zsh":
		return completeZsh(w, app.Name, words)
	case "fish":
		return completeFish(w, app.Name, words)
	}
	return Usage("completion: no script for %q: bash, zsh or fish", shell)
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

func enumCases(w io.Writer, words []completion, line string) {
	seen := map[string]bool{}
	for _, c := range words {
		if len(c.enum) == 0 || seen[c.word] {
			continue
		}
		seen[c.word] = true
		fmt.Fprintf(w, line, c.word, strings.Join(c.enum, " "))
	}
}

func completeBash(w io.Writer, name string, words []completion) error {
	paths, at := byPath(words)
	fmt.Fprintf(w, "# bash completion for %[1]s; load with: source <(%[1]s completion bash)\n_%[1]s() {\n", name)
	fmt.Fprint(w, `  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" path="" word i skip=0
  COMPREPLY=()
  case "$prev" in
`)
	enumCases(w, words, "    %s) COMPREPLY=($(compgen -W \"%s\" -- \"$cur\")); return ;;\n")
	fmt.Fprintf(w, `    %[1]s) COMPREPLY=($(compgen -f -- "$cur")); return ;;
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
			fmt.Fprintf(w, "      %q) path=%q ;;\n", p, p)
		}
	}
	fmt.Fprint(w, "    esac\n  done\n  case \"$path\" in\n")
	for _, p := range paths {
		list := make([]string, len(at[p]))
		for i, c := range at[p] {
			list[i] = c.word
		}
		fmt.Fprintf(w, "    %q) COMPREPLY=($(compgen -W %q -- \"$cur\")) ;;\n", p, strings.Join(list, " "))
	}
	_, err := fmt.Fprintf(w, "  esac\n}\ncomplete -o default -F _%[1]s %[1]s\n", name)
	return err
}

func completeZsh(w io.Writer, name string, words []completion) error {
	paths, at := byPath(words)
	fmt.Fprintf(w, "#compdef %[1]s\n# zsh completion for %[1]s; load with: source <(%[1]s completion zsh)\n_%[1]s() {\n", name)
	fmt.Fprint(w, `  local at="" word i skip=0 prev="${words[CURRENT-1]}"
  local -a list
  case "$prev" in
`)
	enumCases(w, words, "    %s) compadd -- %s; return ;;\n")
	fmt.Fprintf(w, `    %[1]s) _files; return ;;
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
			fmt.Fprintf(w, "      %q) at=%q ;;\n", p, p)
		}
	}
	fmt.Fprint(w, "    esac\n  done\n  case \"$at\" in\n")
	for _, p := range paths {
		list := make([]string, len(at[p]))
		for i, c := range at[p] {
			list[i] = shellQuote(strings.ReplaceAll(c.word, ":", `\:`) + ":" + c.help)
		}
		fmt.Fprintf(w, "    %q) list=(%s) ;;\n", p, strings.Join(list, " "))
	}
	_, err := fmt.Fprintf(w, "  esac\n  _describe 'command' list || _files\n}\ncompdef _%[1]s %[1]s\n", name)
	return err
}

func completeFish(w io.Writer, name string, words []completion) error {
	fmt.Fprintf(w, "# fish completion for %[1]s; load with: %[1]s completion fish | source\n", name)
	paths, at := byPath(words)
	fmt.Fprintf(w, `function __%s_at
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
			fmt.Fprintf(w, "complete -c %s -n %s", name, shellQuote(fmt.Sprintf("__%s_at %q", name, p)))
			switch {
			case strings.HasPrefix(c.word, "--"):
				fmt.Fprintf(w, " -l %s", c.word[2:])
			case strings.HasPrefix(c.word, "-"):
				fmt.Fprintf(w, " -s %s", c.word[1:])
			default:
				fmt.Fprintf(w, " -f -a %s", c.word)
			}
			if c.value {
				fmt.Fprint(w, " -r")
			}
			if len(c.enum) > 0 {
				fmt.Fprintf(w, " -f -a %s", shellQuote(strings.Join(c.enum, " ")))
			}
			fmt.Fprintf(w, " -d %s\n", shellQuote(c.help))
		}
	}
	return nil
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
