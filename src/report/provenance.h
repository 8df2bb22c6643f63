// Where a report comes from, as a part of it.
#pragma once

#include <nlohmann/json.hpp>

#include "diffulex_edge/report.h"
#include "report/html_page.h"

namespace diffulex_edge {

// Adds "command", "model_sha256" and "model_files", as far as they are known.
void add_provenance(nlohmann::ordered_json& json, const Provenance& provenance);
// A section with the command, the model and its hashes, and other facts.
void add_provenance(HtmlPage& page, const Model& model, const Provenance& provenance, const Facts& more);

}  // namespace diffulex_edge
