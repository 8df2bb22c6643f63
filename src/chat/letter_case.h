// Upper and lower case, as Python's str has them: full mappings, where one character may become several.
#pragma once

#include <string>
#include <string_view>

namespace diffulex_edge::chat {

bool is_cased(char32_t character);  // has an upper or a lower case

std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string capitalize(std::string_view text);
std::string title(std::string_view text);           // the method: words end at anything without case
std::string title_of_words(std::string_view text);  // Jinja's filter: words end at white space, '-' and brackets

}  // namespace diffulex_edge::chat
