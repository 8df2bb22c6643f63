# Warnings, sanitizers and floating-point rules that every target of this project shares.
add_library(diffulex_edge_settings INTERFACE)
target_compile_options(diffulex_edge_settings INTERFACE
  -Wall -Wextra -Wpedantic -Wconversion -Wshadow
  # Designated initializers leave members to their defaults on purpose.
  -Wno-missing-field-initializers
  # The stored formats are defined bit by bit: no contraction of a * b + c.
  -ffp-contract=off)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC 12 sees overlaps and overruns inside std::string and std::vector that are not there (GCC bug 105651).
  target_compile_options(diffulex_edge_settings INTERFACE -Wno-restrict -Wno-array-bounds -Wno-stringop-overread
    -Wno-stringop-overflow)
endif()
if(DIFFULEX_EDGE_WERROR)
  target_compile_options(diffulex_edge_settings INTERFACE -Werror)
endif()
if(DIFFULEX_EDGE_SANITIZE)
  set(addresses_only $<BOOL:$<TARGET_PROPERTY:DIFFULEX_EDGE_SANITIZE_ADDRESSES_ONLY>>)
  target_compile_options(diffulex_edge_settings INTERFACE
    -fsanitize=address$<$<NOT:${addresses_only}>:,undefined> -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(diffulex_edge_settings INTERFACE -fsanitize=address,undefined)
endif()

# With DIFFULEX_EDGE_UNITY, compiles a target's files together, some of a folder as one: a header is then read, and a
# template made, once for all of them instead of once for each. No two files of a folder may give one name to different
# things in their anonymous namespaces. Every file still includes what it uses: `make lint` reads each by itself.
# diffulex_edge_unity(TARGET SIZE): at most SIZE files as one.
function(diffulex_edge_unity target size)
  if(NOT DIFFULEX_EDGE_UNITY)
    return()
  endif()
  get_target_property(sources ${target} SOURCES)
  list(FILTER sources INCLUDE REGEX "^[^$]*[.]cc$")
  set(folders)
  foreach(source IN LISTS sources)
    get_filename_component(folder ${source} DIRECTORY)
    string(MAKE_C_IDENTIFIER "_${folder}" folder)
    list(APPEND folders ${folder})
    list(APPEND files${folder} ${source})
  endforeach()
  list(REMOVE_DUPLICATES folders)
  foreach(folder IN LISTS folders)
    list(LENGTH files${folder} count)
    math(EXPR parts "(${count} + ${size} - 1) / ${size}")
    set(index 0)
    foreach(source IN LISTS files${folder})
      math(EXPR part "${index} * ${parts} / ${count}")
      set_source_files_properties(${source} PROPERTIES UNITY_GROUP ${target}${folder}_${part})
      math(EXPR index "${index} + 1")
    endforeach()
  endforeach()
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP UNITY_BUILD_RELOCATABLE ON)
endfunction()

# Reads the standard library's headers, and those given, once for all files of a target, which saves a fifth of a build.
# Every file still includes what it uses: `make lint` compiles without this.
function(diffulex_edge_precompile target)
  target_precompile_headers(${target} PRIVATE <algorithm> <array> <cmath> <cstdint> <filesystem> <functional> <limits>
    <map> <memory> <optional> <set> <span> <string> <string_view> <utility> <variant> <vector> ${ARGN})
  # What ccache needs to keep objects that were compiled with a precompiled header.
  target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess>
    "$<$<CXX_COMPILER_ID:Clang>:SHELL:-Xclang -fno-pch-timestamp>")
endfunction()
