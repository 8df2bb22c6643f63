// What a client did wrong, or why it can't be served now, in the form of OpenAI's servers.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include "diffulex_edge/error.h"

namespace diffulex_edge {

class ApiError : public std::runtime_error {
 public:
  ApiError(int status, const std::string& message, std::string code = {}, const std::string& param = {});

  int status() const { return status_; }
  const std::string& code() const { return code_; }
  const std::string& param() const { return param_; }
  // {"error": {"message", "type", "param", "code"}}
  std::string to_json() const;

 private:
  int status_;
  std::string code_;
  std::string param_;
};

// What a request's failure is to its client.
ApiError to_api_error(const Error& error);

}  // namespace diffulex_edge
