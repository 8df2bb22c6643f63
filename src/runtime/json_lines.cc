#include "runtime/json_lines.h"

#include <algorithm>
#include <cstddef>

#include "core/json.h"
#include "core/mapped_file.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kMaxLineBytes = std::size_t{64} << 20U;
constexpr int kMaxLineDepth = 64;

nlohmann::json parse_line(std::string_view line, const std::string& where) {
  if (line.size() > kMaxLineBytes) {
    throw Error(ErrorCode::kBadFile, where,
                "the line has more than " + std::to_string(kMaxLineBytes) + " bytes, which is too long");
  }
  if (line.find('\0') != std::string_view::npos) {
    throw Error(ErrorCode::kBadFile, where, "it is not text: it has a NUL byte");
  }
  try {
    return nlohmann::json::parse(line, [&](int depth, nlohmann::json::parse_event_t, const nlohmann::json&) {
      if (depth > kMaxLineDepth) {
        throw Error(ErrorCode::kBadFile, where, "the JSON is nested deeper than " + std::to_string(kMaxLineDepth));
      }
      return true;
    });
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorCode::kBadFile, where, "not valid JSON: " + json_error_text(error));
  }
}

}  // namespace

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r\v\f") == std::string_view::npos; }

void for_each_line(std::string_view text, const std::function<bool(std::string_view, std::int64_t)>& take) {
  if (text.starts_with("\xEF\xBB\xBF")) {
    text.remove_prefix(3);  // Windows' mark of UTF-8
  }
  for (std::int64_t number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) {
      line.remove_suffix(1);
    }
    if (!take(line, number)) {
      return;
    }
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

void for_each_json_line(const std::filesystem::path& path,
                        const std::function<bool(const nlohmann::json&, const std::string&)>& take) {
  const MappedFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  for_each_line(text, [&](std::string_view line, std::int64_t number) {
    if (is_blank(line)) {
      return true;
    }
    const std::string where = path.string() + ": line " + std::to_string(number);
    return take(parse_line(line, where), where);
  });
  file.check();
}

std::vector<std::int64_t> read_input_ids(const nlohmann::json& value, const std::string& where) {
  std::vector<std::int64_t> ids;
  if (value.is_array()) {
    for (const nlohmann::json& id : value) {
      if (!id.is_number_integer() || (id.is_number_unsigned() && id.get<std::uint64_t>() > INT64_MAX)) {
        throw Error(ErrorCode::kBadFile, where, "'input_ids' has a value that is not a token id");
      }
      ids.push_back(id.get<std::int64_t>());
    }
  }
  if (ids.empty()) {
    throw Error(ErrorCode::kBadFile, where, "'input_ids' is not a list of token ids");
  }
  return ids;
}

void check_token_ids(const std::vector<std::int64_t>& ids, std::int64_t vocab_size, const std::string& where,
                     const std::string& advice) {
  for (const std::int64_t id : ids) {
    if (id < 0 || id >= vocab_size) {
      throw Error(
          ErrorCode::kBadFile, where,
          "the token id " + std::to_string(id) + " is outside the model's vocabulary of " + std::to_string(vocab_size),
          advice);
    }
  }
}

}  // namespace diffulex_edge
