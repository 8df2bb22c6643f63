// encode_text TOKENIZER [decode|begin]: JSON strings on stdin, one a line; JSON lists of token ids on stdout, all in
// ASCII. "decode" does the opposite, "begin" gives what stands before a text. Lets Python tests reach the tokenizer.
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "diffulex_edge/tokenizer.h"

int main(int count, char** words) try {
  const std::span<char*> arguments(words, static_cast<std::size_t>(count));
  if (arguments.size() < 2) {
    std::cerr << "encode_text TOKENIZER [decode|begin]\n";
    return 2;
  }
  const diffulex_edge::Tokenizer tokenizer(arguments[1]);
  const std::string mode = arguments.size() > 2 ? arguments[2] : "encode";
  for (std::string line; std::getline(std::cin, line);) {
    const nlohmann::json input = nlohmann::json::parse(line);
    nlohmann::json output;
    if (mode == "begin") {
      output = tokenizer.begin_ids();
    } else if (mode == "decode") {
      output = tokenizer.decode(input.get<std::vector<std::int64_t>>());
    } else {
      output = tokenizer.encode(input.get<std::string>());
    }
    std::cout << output.dump(-1, ' ', true) << '\n';
  }
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
