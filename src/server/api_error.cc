#include "server/api_error.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "core/printable.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kMostOfAMessage = 500;

std::string_view error_type(int status) {
  if (status == 401) {
    return "authentication_error";
  }
  if (status == 429) {
    return "rate_limit_error";
  }
  return status < 500 ? "invalid_request_error" : "server_error";
}

nlohmann::ordered_json text_or_null(const std::string& text) {
  return text.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(text);
}

}  // namespace

ApiError::ApiError(int status, const std::string& message, std::string code, const std::string& param)
    : std::runtime_error(printable(message, kMostOfAMessage)),
      status_(status),
      code_(std::move(code)),
      param_(printable(param, kMostOfAMessage)) {}

std::string ApiError::to_json() const {
  const nlohmann::ordered_json error{{"message", what()},
                                     {"type", error_type(status_)},
                                     {"param", text_or_null(param_)},
                                     {"code", text_or_null(code_)}};
  return nlohmann::ordered_json{{"error", error}}.dump(-1, ' ', false,
                                                       nlohmann::ordered_json::error_handler_t::replace);
}

ApiError to_api_error(const Error& error) {
  switch (error.code()) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kUnsupported:
      return {400, error.what(), "invalid_value", error.where()};
    case ErrorCode::kOutOfMemory:
      return {503, "the server is out of memory", "out_of_memory"};
    case ErrorCode::kCancelled:
      return {503, "the server is shutting down", "shutting_down"};
    case ErrorCode::kBadFile:
    case ErrorCode::kIo:
    case ErrorCode::kInternal:
      break;
  }
  return {500, error.what(), "internal_error"};
}

}  // namespace diffulex_edge
