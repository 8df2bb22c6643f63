# Installs the Debian packages that `pip install .` needs, as `make` does, where that takes no password; elsewhere says in
# one sentence what to run. Comes before project(): the compiler may be among them. Without apt, find_package says what is
# missing.
if(NOT EXISTS /usr/bin/apt-get)
  return()
endif()
set(script ${CMAKE_CURRENT_LIST_DIR}/../scripts/install-packages)
execute_process(COMMAND ${CMAKE_COMMAND} -E env PYTHON=${Python_EXECUTABLE} ${script} --missing wheel
  OUTPUT_VARIABLE missing OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
if(missing STREQUAL "")
  return()
endif()
execute_process(COMMAND sh -c "[ \"$(id -u)\" = 0 ] || sudo -n true" RESULT_VARIABLE refused OUTPUT_QUIET ERROR_QUIET)
if(refused EQUAL 0)
  execute_process(COMMAND ${CMAKE_COMMAND} -E env PYTHON=${Python_EXECUTABLE} ${script} wheel RESULT_VARIABLE refused)
endif()
if(NOT refused EQUAL 0)
  message(FATAL_ERROR "Debian packages are missing (${missing}); run `scripts/install-packages wheel` and try again.")
endif()
