#include "report/provenance.h"

#include "report/description.h"
#include "report/text_table.h"

namespace diffulex_edge {

void add_provenance(nlohmann::ordered_json& json, const Provenance& provenance) {
  if (!provenance.command.empty()) {
    json["command"] = provenance.command;
  }
  if (provenance.model_hash) {
    json["model_sha256"] = provenance.model_hash->sha256;
    for (const FileHash& file : provenance.model_hash->files) {
      json["model_files"].push_back({{"name", file.name}, {"bytes", file.bytes}, {"sha256", file.sha256}});
    }
  }
}

void add_provenance(HtmlPage& page, const Model& model, const Provenance& provenance, const Facts& more) {
  page.section("Where this comes from");
  if (!provenance.command.empty()) {
    page.add(html_code(provenance.command));
  }
  Facts facts = {{"Model", model.path.string()},
                 {"Family", model.config.family + ", " + std::to_string(model.config.num_layers) + " blocks, " +
                                describe_mask(model.config.block_length)}};
  facts.insert(facts.end(), more.begin(), more.end());
  if (provenance.model_hash) {
    facts.emplace_back("Model's SHA-256", provenance.model_hash->sha256);
  }
  page.facts(facts);
  if (provenance.model_hash) {
    std::vector<std::vector<std::string>> rows;
    for (const FileHash& file : provenance.model_hash->files) {
      rows.push_back({file.name, format_count(file.bytes), "sha256 " + file.sha256});
    }
    page.details("The files that were hashed",
                 "<p>The model's hash is that of the lines which sha256sum prints for these files, in this order: "
                 "LC_ALL=C; sha256sum config.json *.safetensors | sha256sum</p>" +
                     html_table({"file", "bytes", "hash"}, rows));
  }
}

}  // namespace diffulex_edge
