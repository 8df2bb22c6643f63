// What an evaluation found by generating, as a part of its report.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "diffulex_edge/generation_evaluation.h"
#include "report/html_page.h"

namespace diffulex_edge {

// `file` is that of the prompts.
nlohmann::ordered_json generation_json(const GenerationEvaluation& evaluation, const std::string& file);
std::string generation_text(const GenerationEvaluation& evaluation, const std::string& file);
void add_generation(HtmlPage& page, const GenerationEvaluation& evaluation);
void add_generation_tiles(std::vector<Tile>& tiles, const GenerationEvaluation& evaluation);
// "greedy text is the same for 3 of 8 prompts"
std::string generation_words(const GenerationEvaluation& evaluation);

}  // namespace diffulex_edge
