// The Qualcomm systems on a chip that models are compiled for.
#pragma once

#include <span>
#include <string_view>

namespace diffulex_edge::qnn {

// Sources: QcomChipset and _soc_info_table in ExecuTorch's backends/qualcomm/serialization/qc_schema.py; for SC8380XP
// soc_table.cc in LiteRT's litert/vendors/qualcomm/core/schema, and its number in QAIRT's QnnTypes.h. QAIRT 2.51
// compiled a transformer in FP16 for each, and with 16-bit activations for all but SM8350 (QNN_COMMON_ERROR_MEM_ALLOC).
struct Soc {
  std::string_view name;     // "SM8550"
  int model = 0;             // QNN's number of it: option soc_model
  int htp_architecture = 0;  // of its Hexagon NPU: 73 is v73
  int vtcm_mebibytes = 0;    // fast memory inside the NPU
  // INT4 weights with scales for blocks of the input; compilers refuse them for v68.
  bool takes_block_int4() const { return htp_architecture >= 69; }
};

// In the order of their numbers.
std::span<const Soc> all_socs();

// By name, in any letter case. Error{kInvalidArgument} that lists the known names.
const Soc& parse_soc(std::string_view name);

}  // namespace diffulex_edge::qnn
