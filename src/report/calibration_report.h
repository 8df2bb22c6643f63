// What calibration found, as a part of other reports.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "diffulex_edge/calibration.h"
#include "report/html_page.h"

namespace diffulex_edge {

nlohmann::ordered_json calibration_json(const CalibrationResult& calibration);
// A report's warnings with those of calibration, if there was one.
std::vector<std::string> with_calibration(std::vector<std::string> warnings, const CalibrationResult* calibration);
// A line or two: how much data, which methods were chosen, what they won over round-to-nearest.
std::string calibration_text(const CalibrationResult& calibration);
// A section with what the data was, and charts of rounding and of activations.
void add_calibration(HtmlPage& page, const CalibrationResult& calibration);

}  // namespace diffulex_edge
