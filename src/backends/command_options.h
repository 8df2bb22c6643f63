// The command's options for backends, as their descriptions have them.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "diffulex_edge/backend_description.h"

namespace diffulex_edge {

// One flag, for the options of this name of one or several backends.
struct CommandOption {
  std::string flag;   // "--chunk-size"
  std::string name;   // "chunk_size"
  std::string group;  // of the help: the backends' titles, "Core ML"
  std::string help;
  bool is_flag = false;  // takes no value
  bool is_list = false;  // may be repeated
};

// In the order in which backends describe them.
std::vector<CommandOption> command_options(const std::vector<BackendDescription>& backends);

// The options of a backend out of those that were given, by their names. Throws Error{kInvalidArgument} naming the flag
// of an option that only other backends have, and those.
std::map<std::string, std::string> options_of(const BackendDescription& backend,
                                              const std::vector<BackendDescription>& backends,
                                              std::map<std::string, std::string> given);

// For help: "xnnpack (default), coreml or qnn".
std::string backend_choices(const std::vector<BackendDescription>& backends);
// What each backend makes of --output, --activation-dtype and --seq-len: "xnnpack: a .pte file; coreml: ...".
std::string describe_outputs(const std::vector<BackendDescription>& backends);
std::string describe_activation_dtypes(const std::vector<BackendDescription>& backends);
std::string describe_lengths(const std::vector<BackendDescription>& backends);

}  // namespace diffulex_edge
