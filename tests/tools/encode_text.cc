// encode_text TOKENIZER [decode]: JSON strings on stdin, one a line; JSON lists of token ids on stdout, all in ASCII.
// "decode" does the opposite. Lets Python tests reach the tokenizer.
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
    std::cerr << "encode_text TOKENIZER [decode]\n";
    return 2;
  }
  const diffulex_edge::Tokenizer tokenizer(arguments[1]);
  for (std::string line; std::getline(std::cin, line);) {
    const nlohmann::json input = nlohmann::json::parse(line);
    const nlohmann::json output = arguments.size() > 2
                                      ? nlohmann::json(tokenizer.decode(input.get<std::vector<std::int64_t>>()))
                                      : nlohmann::json(tokenizer.encode(input.get<std::string>()));
    std::cout << output.dump(-1, ' ', true) << '\n';
  }
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
