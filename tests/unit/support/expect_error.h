// Checks that a call throws Error with a code and says what a user needs to read.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>

#include "diffulex_edge/error.h"

namespace diffulex_edge::testing {

template <typename Call>
void expect_error(ErrorCode code, std::initializer_list<std::string> parts, Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    for (const std::string& part : parts) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
          << "'" << part << "' is not in: " << error.what();
    }
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return;
  }
  ADD_FAILURE() << "no Error was thrown";
}

}  // namespace diffulex_edge::testing
