# cmake -DINPUT=FILE -DOUTPUT=HEADER -DNAME=kConstant -DNAMESPACE=a::b -P EmbedText.cmake
# Writes a header with a text file as a string literal.
file(READ ${INPUT} text)
string(FIND "${text}" ")embedded\"" ending)
if(NOT ending EQUAL -1)
  message(FATAL_ERROR "${INPUT} has the mark that ends the literal")
endif()
file(WRITE ${OUTPUT} "// Generated from ${INPUT}.
#pragma once

#include <string_view>

namespace ${NAMESPACE} {

inline constexpr std::string_view ${NAME} = R\"embedded(${text})embedded\";

}  // namespace ${NAMESPACE}
")
