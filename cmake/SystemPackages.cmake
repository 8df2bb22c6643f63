# Says in one sentence which Debian packages `pip install .` misses, and installs them only where the user asks for it with
# DIFFULEX_EDGE_INSTALL_PACKAGES=1 in the environment. Comes before project(): the compiler may be among them. Without apt,
# find_package says what is missing.
if(NOT EXISTS /usr/bin/apt-get)
  return()
endif()
set(script ${CMAKE_CURRENT_LIST_DIR}/../scripts/install-packages)
execute_process(COMMAND ${CMAKE_COMMAND} -E env PYTHON=${Python_EXECUTABLE} ${script} --missing wheel
  OUTPUT_VARIABLE missing OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
if(missing STREQUAL "")
  return()
endif()
if(NOT "$ENV{DIFFULEX_EDGE_INSTALL_PACKAGES}" STREQUAL "1")
  message(FATAL_ERROR "Debian packages are missing: ${missing}. Install them with `scripts/install-packages wheel`, or let "
    "this build do it with DIFFULEX_EDGE_INSTALL_PACKAGES=1 in the environment.")
endif()
# A question for a password would not be seen below pip.
execute_process(COMMAND sh -c "[ \"$(id -u)\" = 0 ] || sudo -n true" RESULT_VARIABLE failed OUTPUT_QUIET ERROR_QUIET)
if(failed EQUAL 0)
  execute_process(COMMAND ${CMAKE_COMMAND} -E env PYTHON=${Python_EXECUTABLE} ${script} wheel RESULT_VARIABLE failed)
endif()
if(NOT failed EQUAL 0)
  message(FATAL_ERROR "Debian packages are missing and could not be installed: ${missing}. Run "
    "`scripts/install-packages wheel` yourself and try again.")
endif()
