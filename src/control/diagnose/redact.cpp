#include "control/diagnose/redact.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cctype>

namespace diskengine::control {
namespace {

namespace json = boost::json;

constexpr std::array<std::string_view, 8> kSecretNames = {"psk",      "key",    "dhchap_key", "dhchap_ctrlr_key",
                                                          "password", "secret", "token",      "passphrase"};
constexpr std::array<std::string_view, 2> kKeyMarks = {"DHHC-1:", "NVMeTLSkey-1:"};

bool is_secret_name(std::string_view name) {
  return std::find(kSecretNames.begin(), kSecretNames.end(), name) != kSecretNames.end();
}

bool ends_word(char c) {
  return std::isspace(static_cast<unsigned char>(c)) != 0 || c == '"' || c == '\'' || c == ',' || c == '&';
}

size_t word_end(std::string_view text, size_t from) {
  while (from < text.size() && !ends_word(text[from])) ++from;
  return from;
}

// The end of a value that may be quoted, as connection strings have it: 'it''s' or 'it\'s'.
size_t value_end(std::string_view text, size_t from) {
  if (from >= text.size() || text[from] != '\'') return word_end(text, from);
  for (size_t at = from + 1; at < text.size(); ++at) {
    if (text[at] == '\\') {
      ++at;
    } else if (text[at] == '\'') {
      return at + 1;
    }
  }
  return text.size();
}

void replace_keys(std::string* text) {
  for (const std::string_view mark : kKeyMarks) {
    for (size_t at = text->find(mark); at != std::string::npos;
         at = text->find(mark, at + mark.size() + kRedacted.size())) {
      const size_t begin = at + mark.size();
      text->replace(begin, word_end(*text, begin) - begin, kRedacted);
    }
  }
}

// password = 'secret'
void replace_passwords(std::string* text) {
  constexpr std::array<std::string_view, 3> kNames = {"password", "sslpassword", "passwd"};
  for (const std::string_view name : kNames) {
    for (size_t at = text->find(name); at != std::string::npos; at = text->find(name, at + name.size())) {
      size_t begin = at + name.size();
      while (begin < text->size() && (*text)[begin] == ' ') ++begin;
      if (begin >= text->size() || (*text)[begin] != '=') continue;
      ++begin;
      while (begin < text->size() && (*text)[begin] == ' ') ++begin;
      text->replace(begin, value_end(*text, begin) - begin, kRedacted);
    }
  }
}

// scheme://user:secret@host: up to the last '@' before the path, for a secret may hold one too.
void replace_url_passwords(std::string* text) {
  for (size_t at = text->find("://"); at != std::string::npos; at = text->find("://", at + 3)) {
    const size_t begin = at + 3;
    const std::string_view rest = std::string_view(*text).substr(begin, word_end(*text, begin) - begin);
    const std::string_view authority = rest.substr(0, rest.rfind('@') == std::string_view::npos ? 0 : rest.rfind('@'));
    const size_t colon = authority.find(':');
    if (colon == std::string_view::npos) continue;
    text->replace(begin + colon + 1, authority.size() - colon - 1, kRedacted);
  }
}

}  // namespace

std::string redacted_text(std::string_view text) {
  std::string result(text);
  replace_keys(&result);
  replace_passwords(&result);
  replace_url_passwords(&result);
  return result;
}

json::value redacted(const json::value& value) {
  if (const json::string* text = value.if_string()) return json::value(redacted_text(*text));
  if (const json::array* array = value.if_array()) {
    json::array list;
    for (const json::value& element : *array) list.push_back(redacted(element));
    return list;
  }
  const json::object* object = value.if_object();
  if (object == nullptr) return value;
  json::object result;
  for (const auto& member : *object) {
    const bool hides = is_secret_name(member.key()) && !member.value().is_null();
    result[member.key()] = hides ? json::value(kRedacted) : redacted(member.value());
  }
  return result;
}

}  // namespace diskengine::control
