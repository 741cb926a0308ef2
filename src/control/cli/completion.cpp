#include "control/cli/completion.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <vector>

namespace diskengine::control::cli {
namespace {

struct Word {
  std::string text;
  std::string help;
};

// One command of the tree: the words that lead to it, and what may come next.
struct Level {
  std::string path;  // "volume create", empty for the root
  std::vector<Word> commands;
  std::vector<Word> options;
};

std::string one_line(std::string text) {
  const size_t end = text.find_first_of("\n");
  return end == std::string::npos ? text : text.substr(0, end);
}

void add_options(const CLI::App& app, std::vector<Word>* options) {
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames())
      options->push_back({"--" + name, one_line(option->get_description())});
}

void collect(const CLI::App& app, const std::string& path, const std::vector<Word>& inherited,
             std::vector<Level>* levels) {
  Level level{.path = path, .commands = {}, .options = inherited};
  add_options(app, &level.options);
  const auto subcommands = app.get_subcommands([](const CLI::App*) { return true; });
  for (const CLI::App* sub : subcommands) level.commands.push_back({sub->get_name(), one_line(sub->get_description())});
  levels->push_back(level);
  // A parent's options may stand after the subcommand as well, except --help, which each has of its own.
  std::vector<Word> passed_on;
  for (const Word& word : level.options)
    if (word.text != "--help" && word.text != "--version") passed_on.push_back(word);
  for (const CLI::App* sub : subcommands)
    collect(*sub, path.empty() ? sub->get_name() : path + " " + sub->get_name(), passed_on, levels);
}

std::string joined(const std::vector<Word>& words) {
  std::string text;
  for (const Word& word : words) text += (text.empty() ? "" : " ") + word.text;
  return text;
}

// Walks the words before the cursor down the tree as far as they are commands; that level's words are offered.
std::string shared_case(const std::vector<Level>& levels) {
  std::string cases;
  for (const Level& level : levels)
    cases += fmt::format("    '{}') words=\"{}\" ;;\n", level.path,
                         joined(level.commands) + (level.commands.empty() ? "" : " ") + joined(level.options));
  return cases;
}

std::string known_paths(const std::vector<Level>& levels) {
  std::string patterns;
  for (const Level& level : levels)
    if (!level.path.empty()) patterns += fmt::format("{}'{}'", patterns.empty() ? "" : "|", level.path);
  return patterns;
}

std::string bash_script(const std::string& name, const std::vector<Level>& levels) {
  return fmt::format(
      "# bash completion for {0}: source this file, or put it into /etc/bash_completion.d/.\n"
      "_{0}() {{\n"
      "  local path='' word words='' next\n"
      "  for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do\n"
      "    next=\"${{path:+$path }}$word\"\n"
      "    case \"$next\" in\n"
      "    {1}) path=\"$next\" ;;\n"
      "    esac\n"
      "  done\n"
      "  case \"$path\" in\n"
      "{2}"
      "  esac\n"
      "  case \"${{COMP_WORDS[COMP_CWORD-1]}}\" in\n"
      "    -o|--output) words='table wide json yaml' ;;\n"
      "    --path|--db|--data-plane|--vhost-dir|--api) COMPREPLY=($(compgen -f -- \"${{COMP_WORDS[COMP_CWORD]}}\")); "
      "return ;;\n"
      "  esac\n"
      "  COMPREPLY=($(compgen -W \"$words\" -- \"${{COMP_WORDS[COMP_CWORD]}}\"))\n"
      "}}\n"
      "complete -F _{0} {0}\n",
      name, known_paths(levels), shared_case(levels));
}

std::string zsh_script(const std::string& name, const std::vector<Level>& levels) {
  return fmt::format(
      "#compdef {0}\n"
      "# zsh completion for {0}: put this file as _{0} into a directory of $fpath.\n"
      "_{0}() {{\n"
      "  local cmd='' word list='' next\n"
      "  for word in \"${{(@)words[2,CURRENT-1]}}\"; do\n"
      "    next=\"${{cmd:+$cmd }}$word\"\n"
      "    case \"$next\" in\n"
      "    {1}) cmd=\"$next\" ;;\n"
      "    esac\n"
      "  done\n"
      "  local -a offered\n"
      "  _{0}_words \"$cmd\"\n"
      "  case \"${{words[CURRENT-1]}}\" in\n"
      "    -o|--output) offered=(table wide json yaml) ;;\n"
      "    --path|--db|--data-plane|--vhost-dir|--api) _files; return ;;\n"
      "  esac\n"
      "  compadd -a offered\n"
      "}}\n"
      "_{0}_words() {{\n"
      "  local words\n"
      "  case \"$1\" in\n"
      "{2}"
      "  esac\n"
      "  offered=(${{=words}})\n"
      "}}\n"
      "compdef _{0} {0}\n",
      name, known_paths(levels), shared_case(levels));
}

std::string fish_quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' || c == '\\' ? std::string("\\") + c : std::string(1, c);
  return quoted + "'";
}

// True where exactly the words of `path` have been given.
std::string fish_condition(const Level& level) {
  if (level.path.empty()) return "__fish_use_subcommand";
  std::string condition;
  std::string rest = level.path;
  while (!rest.empty()) {
    const size_t space = rest.find(' ');
    condition +=
        fmt::format("{}__fish_seen_subcommand_from {}", condition.empty() ? "" : "; and ", rest.substr(0, space));
    rest = space == std::string::npos ? std::string() : rest.substr(space + 1);
  }
  if (!level.commands.empty())
    condition += fmt::format("; and not __fish_seen_subcommand_from {}", joined(level.commands));
  return condition;
}

std::string fish_script(const std::string& name, const std::vector<Level>& levels) {
  std::string script = fmt::format(
      "# fish completion for {0}: put this file as {0}.fish into ~/.config/fish/completions/.\ncomplete -c {0} -f\n",
      name);
  for (const Level& level : levels) {
    const std::string condition = fish_quoted(fish_condition(level));
    for (const Word& word : level.commands)
      script += fmt::format("complete -c {} -n {} -a {} -d {}\n", name, condition, word.text, fish_quoted(word.help));
    for (const Word& word : level.options)
      script += fmt::format("complete -c {} -n {} -l {} -d {}\n", name, condition, word.text.substr(2),
                            fish_quoted(word.help));
  }
  return script;
}

}  // namespace

Result<std::string> completion_script(const CLI::App& root, std::string_view shell) {
  std::vector<Level> levels;
  collect(root, "", {}, &levels);
  if (shell == "bash") return bash_script(root.get_name(), levels);
  if (shell == "zsh") return zsh_script(root.get_name(), levels);
  if (shell == "fish") return fish_script(root.get_name(), levels);
  return Error(Errc::invalid_argument, fmt::format("there is no completion for '{}'; choose bash, zsh or fish", shell));
}

}  // namespace diskengine::control::cli
