#include "report/generation_report.h"

#include "report/text_table.h"

namespace diffulex_edge {
namespace {

using AnswersJson = nlohmann::ordered_json;

std::string share_of(double share) { return format_number(100.0 * share, 1) + "%"; }

std::string counted(const Proportion& proportion) {
  return format_count(proportion.count) + " of " + format_count(proportion.of);
}

std::string interval_of(const Proportion& proportion) {
  return share_of(proportion.low) + " to " + share_of(proportion.high);
}

AnswersJson proportion_json(const Proportion& proportion) {
  return {{"count", proportion.count},
          {"of", proportion.of},
          {"share", proportion.share},
          {"interval", {proportion.low, proportion.high}}};
}

void add_texts(AnswersJson& json, const WrittenTexts& texts) {
  json["tokens"] = texts.tokens;
  json["forward_passes"] = texts.forward_passes;
  json["tokens_per_forward"] = texts.tokens_per_forward();
  if (texts.right) {
    json["right"] = proportion_json(*texts.right);
  }
}

std::vector<std::string> texts_header(const GenerationEvaluation& evaluation) {
  std::vector<std::string> header = {"text of", "tokens", "passes", "tokens a pass"};
  if (evaluation.model.right) {
    header.insert(header.end(), {"right", "share", "95% interval"});
  }
  return header;
}

std::vector<std::vector<std::string>> texts_rows(const GenerationEvaluation& evaluation) {
  std::vector<std::vector<std::string>> rows;
  const auto add = [&](const std::string& name, const WrittenTexts& texts) {
    std::vector<std::string> row = {name, format_count(texts.tokens), format_count(texts.forward_passes),
                                    format_number(texts.tokens_per_forward(), 2)};
    if (texts.right) {
      row.insert(row.end(), {counted(*texts.right), share_of(texts.right->share), interval_of(*texts.right)});
    }
    rows.push_back(std::move(row));
  };
  add("this model", evaluation.model);
  if (evaluation.reference) {
    add("the reference", *evaluation.reference);
  }
  return rows;
}

// "token 12", from 1 as people count.
std::string place_of(double first_difference) {
  const double place = first_difference + 1.0;
  return "token " + format_number(place, place == static_cast<double>(static_cast<std::int64_t>(place)) ? 0 : 1);
}

std::string agreement_sentence(const TokenAgreement& agreement) {
  std::string text = "all tokens are the same for " + counted(agreement.same) + " prompts (" +
                     share_of(agreement.same.share) + ", 95% interval " + interval_of(agreement.same) + "); " +
                     share_of(agreement.equal_before) + " of the tokens are before the first difference";
  if (agreement.first_difference) {
    text += ", which is at " + place_of(*agreement.first_difference) + " (median)";
  }
  return text;
}

}  // namespace

nlohmann::ordered_json generation_json(const GenerationEvaluation& evaluation, const std::string& file) {
  AnswersJson json{{"file", file}, {"prompts", evaluation.prompts}};
  if (const std::optional<TokenAgreement>& agreement = evaluation.agreement) {
    json["same"] = proportion_json(agreement->same);
    json["equal_before_first_difference"] = agreement->equal_before;
    json["first_difference"] =
        agreement->first_difference ? AnswersJson(*agreement->first_difference) : AnswersJson(nullptr);
  }
  add_texts(json, evaluation.model);
  if (evaluation.reference) {
    add_texts(json["reference"], *evaluation.reference);
  }
  return json;
}

std::string generation_text(const GenerationEvaluation& evaluation, const std::string& file) {
  std::string text = format_count(evaluation.prompts) + (evaluation.prompts == 1 ? " prompt" : " prompts") + " of " +
                     file + ", greedy text\n";
  if (evaluation.agreement) {
    text += agreement_sentence(*evaluation.agreement) + "\n";
  }
  TextTable table(texts_header(evaluation));
  for (const std::vector<std::string>& row : texts_rows(evaluation)) {
    table.add(row);
  }
  return text + "\n" + table.render();
}

void add_generation(HtmlPage& page, const GenerationEvaluation& evaluation) {
  page.section("Text", "What is written for the prompts, always with the most probable tokens.");
  Facts facts;
  if (const std::optional<TokenAgreement>& agreement = evaluation.agreement) {
    facts.emplace_back("All tokens the same", counted(agreement->same) + " prompts, " +
                                                  share_of(agreement->same.share) + ", 95% interval " +
                                                  interval_of(agreement->same));
    facts.emplace_back("Before the first difference", share_of(agreement->equal_before) + " of the tokens, on average");
    facts.emplace_back("First difference", agreement->first_difference
                                               ? "at " + place_of(*agreement->first_difference) + ", median"
                                               : std::string("none"));
  }
  page.facts(facts);
  page.add(html_table(texts_header(evaluation), texts_rows(evaluation)));
}

void add_generation_tiles(std::vector<Tile>& tiles, const GenerationEvaluation& evaluation) {
  if (evaluation.agreement) {
    tiles.push_back({.name = "Same text",
                     .value = share_of(evaluation.agreement->same.share),
                     .note = counted(evaluation.agreement->same) + " prompts, interval " +
                             interval_of(evaluation.agreement->same)});
  }
  if (evaluation.model.right) {
    const std::string beside = evaluation.reference && evaluation.reference->right
                                   ? ", the reference " + share_of(evaluation.reference->right->share)
                                   : "";
    tiles.push_back(
        {.name = "Right answers",
         .value = share_of(evaluation.model.right->share),
         .note = counted(*evaluation.model.right) + ", interval " + interval_of(*evaluation.model.right) + beside});
  }
}

std::string generation_words(const GenerationEvaluation& evaluation) {
  std::string text;
  if (evaluation.agreement) {
    text = "greedy text is the same for " + counted(evaluation.agreement->same) + " prompts";
  }
  if (evaluation.model.right) {
    text += (text.empty() ? "" : ", and ") + counted(*evaluation.model.right) + " answers are right";
    if (evaluation.reference && evaluation.reference->right) {
      text += " (" + format_count(evaluation.reference->right->count) + " of the reference's)";
    }
  }
  return text.empty() ? "text was written for " + format_count(evaluation.prompts) + " prompts" : text;
}

}  // namespace diffulex_edge
