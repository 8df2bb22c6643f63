#include "backends/qnn/soc.h"

#include <algorithm>
#include <array>
#include <string>

#include "core/join.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge::qnn {
namespace {

constexpr std::array kSocs = {
    Soc{.name = "SM8350", .model = 30, .htp_architecture = 68, .vtcm_mebibytes = 4},
    Soc{.name = "SM8450", .model = 36, .htp_architecture = 69, .vtcm_mebibytes = 8},
    Soc{.name = "SA8295", .model = 39, .htp_architecture = 68, .vtcm_mebibytes = 8},
    Soc{.name = "SM8475", .model = 42, .htp_architecture = 69, .vtcm_mebibytes = 8},
    Soc{.name = "SM8550", .model = 43, .htp_architecture = 73, .vtcm_mebibytes = 8},
    Soc{.name = "SA8255", .model = 52, .htp_architecture = 73, .vtcm_mebibytes = 8},
    Soc{.name = "SXR2230P", .model = 53, .htp_architecture = 69, .vtcm_mebibytes = 8},
    Soc{.name = "SM8650", .model = 57, .htp_architecture = 75, .vtcm_mebibytes = 8},
    Soc{.name = "SC8380XP", .model = 60, .htp_architecture = 73, .vtcm_mebibytes = 8},
    Soc{.name = "SA8540", .model = 62, .htp_architecture = 68, .vtcm_mebibytes = 8},
    Soc{.name = "SM8750", .model = 69, .htp_architecture = 79, .vtcm_mebibytes = 8},
    Soc{.name = "SA8797", .model = 72, .htp_architecture = 81, .vtcm_mebibytes = 16},
    Soc{.name = "SXR2330P", .model = 75, .htp_architecture = 79, .vtcm_mebibytes = 8},
    Soc{.name = "QCS9100", .model = 77, .htp_architecture = 73, .vtcm_mebibytes = 8},
    Soc{.name = "SM8850", .model = 87, .htp_architecture = 81, .vtcm_mebibytes = 8},
    Soc{.name = "SM8845", .model = 97, .htp_architecture = 81, .vtcm_mebibytes = 8},
};

// ASCII letters only: the same in every locale.
char upper(char letter) { return letter >= 'a' && letter <= 'z' ? static_cast<char>(letter - 'a' + 'A') : letter; }

}  // namespace

std::span<const Soc> all_socs() { return kSocs; }

const Soc& parse_soc(std::string_view name) {
  for (const Soc& soc : kSocs) {
    if (std::ranges::equal(soc.name, name, {}, {}, upper)) {
      return soc;
    }
  }
  throw Error(ErrorCode::kInvalidArgument, "soc",
              "'" + std::string(name) + "' is not one of " + join(kSocs, ", ", &Soc::name));
}

}  // namespace diffulex_edge::qnn
