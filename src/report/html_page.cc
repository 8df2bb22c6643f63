#include "report/html_page.h"

#include <algorithm>
#include <cctype>

#include "diffulex_edge/version.h"
#include "report/svg.h"

namespace diffulex_edge {
namespace {

using svg::escape;

bool is_number(const std::string& cell) {
  std::string_view rest = cell;
  for (const std::string_view sign : {"−", "±", "+"}) {
    if (rest.starts_with(sign)) {
      rest.remove_prefix(sign.size());
      break;
    }
  }
  return !rest.empty() && std::isdigit(static_cast<unsigned char>(rest[0])) != 0;
}

// Numbers stand right; texts that are long take two lines rather than push other columns away.
std::string cell_class(const std::string& cell) {
  constexpr std::size_t kLong = 20;
  if (is_number(cell)) {
    return " class=\"n\"";
  }
  return svg::characters(cell) > kLong ? " class=\"w\"" : "";
}

std::string definitions(std::string_view list_class, const Facts& facts) {
  std::string html = "<dl class=\"" + std::string(list_class) + "\">";
  for (const auto& [name, value] : facts) {
    html += "<dt>" + escape(name) + "</dt><dd>" + escape(value) + "</dd>";
  }
  return html + "</dl>";
}

std::string paragraph(std::string_view text) { return text.empty() ? "" : "<p>" + escape(text) + "</p>"; }

}  // namespace

void HtmlPage::verdict(std::string_view sentence) { body_ += "<p class=\"verdict\">" + escape(sentence) + "</p>"; }

void HtmlPage::tiles(const std::vector<Tile>& tiles) {
  body_ += "<dl class=\"tiles\">";
  for (const Tile& tile : tiles) {
    body_ += "<div><dt>" + escape(tile.name) + "</dt><dd class=\"value\">" + escape(tile.value) + "</dd><dd>" +
             escape(tile.note) + "</dd></div>";
  }
  body_ += "</dl>";
}

void HtmlPage::warnings(const std::vector<std::string>& warnings) {
  if (warnings.empty()) {
    return;
  }
  body_ += "<section class=\"warnings\"><h2>" + std::to_string(warnings.size()) +
           (warnings.size() == 1 ? " warning" : " warnings") + "</h2><ul>";
  for (const std::string& warning : warnings) {
    body_ += "<li>" + escape(warning) + "</li>";
  }
  body_ += "</ul></section>";
}

void HtmlPage::section(std::string_view title, std::string_view introduction) {
  body_ += "<h2>" + escape(title) + "</h2>" + paragraph(introduction);
}

void HtmlPage::subsection(std::string_view title, std::string_view introduction) {
  body_ += "<h3>" + escape(title) + "</h3>" + paragraph(introduction);
}

void HtmlPage::facts(const Facts& facts) { body_ += definitions("facts", facts); }

void HtmlPage::terms(const Facts& terms) { body_ += definitions("facts terms", terms); }

void HtmlPage::details(std::string_view summary, std::string_view html) {
  body_ += "<details><summary>" + escape(summary) + "</summary>" + std::string(html) + "</details>";
}

std::string HtmlPage::render() const {
  return "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
         "<title>" +
         escape(title_) + "</title><style>" + std::string(page_style()) + "</style></head>\n<body>" + page_patterns() +
         "<header><h1>" + escape(title_) + "</h1><p>" + escape(subtitle_) + "</p></header>\n<main>" + body_ +
         "</main>\n<footer>diffulex-edge " + escape(version()) + "</footer></body></html>\n";
}

std::string html_table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows) {
  std::string html = "<div class=\"scroll\" tabindex=\"0\"><table><thead><tr>";
  for (std::size_t i = 0; i < header.size(); ++i) {
    const bool right = !rows.empty() && i < rows[0].size() && is_number(rows[0][i]);
    html += std::string(right ? "<th class=\"n\" scope=\"col\">" : "<th scope=\"col\">") + escape(header[i]) + "</th>";
  }
  html += "</tr></thead><tbody>";
  for (const auto& row : rows) {
    html += "<tr>";
    for (const std::string& cell : row) {
      html += "<td" + cell_class(cell) + ">" + escape(cell) + "</td>";
    }
    html += "</tr>";
  }
  return html + "</tbody></table></div>";
}

std::string html_code(std::string_view text) {
  // Lines break only between words: a hyphen at the end of a line would be read as another option.
  std::string html = "<pre>";
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    html += "<span>" + escape(text.substr(0, end)) + "</span>";
    html += end < text.size() ? " " : "";
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return html + "</pre>";
}

}  // namespace diffulex_edge
