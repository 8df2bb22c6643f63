// A self-contained HTML page: no script, no network, light and dark, from 320 pixels of width.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace diffulex_edge {

// A figure that is seen first.
struct Tile {
  std::string name;
  std::string value;
  std::string note;
};

using Facts = std::vector<std::pair<std::string, std::string>>;

class HtmlPage {
 public:
  HtmlPage(std::string title, std::string subtitle) : title_(std::move(title)), subtitle_(std::move(subtitle)) {}

  // In the order of the calls. Text is escaped; `html` is not.
  // The page's result, in one sentence.
  void verdict(std::string_view sentence);
  void tiles(const std::vector<Tile>& tiles);
  void warnings(const std::vector<std::string>& warnings);
  void section(std::string_view title, std::string_view introduction = {});
  void subsection(std::string_view title, std::string_view introduction = {});
  void facts(const Facts& facts);
  // What words of a table or a chart mean, beneath it.
  void terms(const Facts& terms);
  void add(std::string_view html) { body_ += html; }
  // Shown on demand.
  void details(std::string_view summary, std::string_view html);

  std::string render() const;

 private:
  std::string title_;
  std::string subtitle_;
  std::string body_;
};

// Cells that begin with a digit or a sign are aligned to the right.
std::string html_table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows);
// A line of text as it is, such as a command.
std::string html_code(std::string_view text);

// The page's style sheet and the patterns that charts are filled with.
std::string_view page_style();
std::string page_patterns();

}  // namespace diffulex_edge
