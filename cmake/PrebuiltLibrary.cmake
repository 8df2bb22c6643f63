# The target diffulex_edge from an archive that another build made of the same sources: `make package` links the wheel so,
# since ccache does not have objects that were compiled beside another precompiled header.
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_package(PCRE2 REQUIRED)
find_package(utf8proc REQUIRED)
add_library(diffulex_edge INTERFACE)
target_include_directories(diffulex_edge INTERFACE ${PROJECT_SOURCE_DIR}/include)
target_compile_features(diffulex_edge INTERFACE cxx_std_20)
if(DIFFULEX_EDGE_OWN_HIGHWAY_TARGETS)
  add_library(diffulex_edge_highway_targets STATIC ${PROJECT_SOURCE_DIR}/src/core/highway_targets.cc)
  target_include_directories(diffulex_edge_highway_targets SYSTEM PRIVATE
    $<TARGET_PROPERTY:hwy::hwy,INTERFACE_INCLUDE_DIRECTORIES>)
  target_compile_definitions(diffulex_edge_highway_targets PRIVATE
    $<TARGET_PROPERTY:hwy::hwy,INTERFACE_COMPILE_DEFINITIONS>)
  set_target_properties(diffulex_edge_highway_targets PROPERTIES POSITION_INDEPENDENT_CODE ON)
  set(highway diffulex_edge_highway_targets)
else()
  set(highway hwy::hwy)
endif()
target_link_libraries(diffulex_edge INTERFACE ${DIFFULEX_EDGE_PREBUILT_LIBRARY} ${highway} Threads::Threads OpenSSL::Crypto
  PCRE2::8BIT utf8proc::utf8proc)
