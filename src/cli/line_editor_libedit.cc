#include <histedit.h>
#include <langinfo.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <clocale>
#include <cstdio>
#include <new>
#include <optional>
#include <string>
#include <string_view>

#include "cli/input_bytes.h"
#include "cli/interrupt.h"
#include "cli/line_editor.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge::cli {
namespace {

constexpr int kHistoryLines = 1000;
constexpr std::string_view kBracketedPasteOn = "\x1b[?2004h";
constexpr std::string_view kBracketedPasteOff = "\x1b[?2004l";
constexpr const char* kPasteKey = "\\e[200~";
constexpr std::wstring_view kPasteEnd = L"\x1b[201~";

// libedit draws by the locale's encoding and widths.
void use_utf8_locale() {
  const char* own = std::setlocale(LC_CTYPE, "");
  if (own != nullptr && std::string_view(::nl_langinfo(CODESET)) == "UTF-8") {
    return;
  }
  for (const char* name : {"C.UTF-8", "en_US.UTF-8"}) {
    if (std::setlocale(LC_CTYPE, name) != nullptr) {
      return;
    }
  }
}

void write_to_terminal(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

class LibeditLineEditor final : public LineEditor {
 public:
  // Takes both.
  LibeditLineEditor(EditLine* edit, HistoryW* history) : edit_(edit), history_(history) {
    HistEventW event{};
    ::history_w(history_, &event, H_SETSIZE, kHistoryLines);
    ::history_w(history_, &event, H_SETUNIQUE, 1);
    ::el_wset(edit_, EL_CLIENTDATA, this);
    ::el_wset(edit_, EL_HIST, ::history_w, history_);
    ::el_wset(edit_, EL_PROMPT, prompt_of);
    ::el_wset(edit_, EL_EDITOR, L"emacs");
    ::el_wset(edit_, EL_GETCFN, read_character);
    ::el_wset(edit_, EL_ADDFN, L"paste", L"Insert a pasted text", insert_paste);
    ::el_set(edit_, EL_BIND, kPasteKey, "paste", nullptr);
    ::el_source(edit_, nullptr);  // a person's own ~/.editrc
  }

  ~LibeditLineEditor() override {
    ::el_end(edit_);
    ::history_wend(history_);
  }
  LibeditLineEditor(const LibeditLineEditor&) = delete;
  LibeditLineEditor& operator=(const LibeditLineEditor&) = delete;
  LibeditLineEditor(LibeditLineEditor&&) = delete;
  LibeditLineEditor& operator=(LibeditLineEditor&&) = delete;

  InputLine read(const wchar_t* prompt) override {
    prompt_ = prompt;
    is_interrupted_ = false;
    ::el_resize(edit_);
    ::el_wset(edit_, EL_PREP_TERM, 1);  // before the prompt: a key that is pressed then is the editor's
    write_to_terminal(kBracketedPasteOn);
    int count = 0;
    const wchar_t* line = ::el_wgets(edit_, &count);
    write_to_terminal(kBracketedPasteOff);
    ::el_wset(edit_, EL_PREP_TERM, 0);
    if (is_interrupted_) {
      write_to_terminal("^C\n");
      return {.kind = InputLine::Kind::kInterrupt, .text = {}};
    }
    if (line == nullptr || count <= 0) {
      write_to_terminal("\n");
      return {.kind = InputLine::Kind::kEnd, .text = {}};
    }
    std::wstring_view text(line, static_cast<std::size_t>(count));
    if (text.ends_with(L'\n')) {
      text.remove_suffix(1);
    }
    InputLine result{.kind = InputLine::Kind::kText, .text = {}};
    for (const wchar_t character : text) {
      append_utf8(static_cast<char32_t>(character), result.text);
    }
    return result;
  }

  void remember(const std::string& text) override {
    std::wstring wide;
    for (std::size_t at = 0; at < text.size(); at += character_length(text[at])) {
      wide += static_cast<wchar_t>(character_at(text, at));
    }
    HistEventW event{};
    ::history_w(history_, &event, H_ENTER, wide.c_str());
  }

 private:
  static LibeditLineEditor& of(EditLine* edit) {
    void* self = nullptr;
    ::el_wget(edit, EL_CLIENTDATA, &self);
    return *static_cast<LibeditLineEditor*>(self);
  }

  static wchar_t* prompt_of(EditLine* edit) { return const_cast<wchar_t*>(of(edit).prompt_); }  // libedit only reads it

  // 1, 0 at the end of the input, or -1 after a signal that ends the line.
  static int read_character(EditLine* edit, wchar_t* character) { return of(edit).next_character(*character); }

  static unsigned char insert_paste(EditLine* edit, wint_t /*key*/) {
    std::wstring text;
    wchar_t character = 0;
    while (!text.ends_with(kPasteEnd)) {
      if (::el_wgetc(edit, &character) != 1) {
        return CC_EOF;
      }
      text += character == L'\r' ? L'\n' : character;  // what terminals send for the end of a line
    }
    text.resize(text.size() - kPasteEnd.size());
    std::erase_if(text, [](wchar_t c) { return (c < L' ' && c != L'\n' && c != L'\t') || c == L'\x7f'; });
    if (text.empty()) {
      return CC_NORM;
    }
    return ::el_winsertstr(edit, text.c_str()) == 0 ? CC_REFRESH : CC_ERROR;
  }

  int next_character(wchar_t& character) {
    std::optional<char32_t> next = buffered_character();
    while (!next) {
      if (!read_input(ahead_, [this] { follow_terminal(); })) {
        const bool is_signal = InterruptGuard::signal() != 0;
        is_interrupted_ = InterruptGuard::take_interrupt();
        return is_signal ? -1 : 0;
      }
      next = buffered_character();
    }
    character = static_cast<wchar_t>(*next);
    return 1;
  }

  // Nothing where the bytes that were read end inside of it.
  std::optional<char32_t> buffered_character() {
    std::string_view rest = std::string_view(ahead_).substr(begin_);
    if (rest.empty() || rest.size() < character_length(rest.front())) {
      ahead_.erase(0, begin_);
      begin_ = 0;
      return std::nullopt;
    }
    rest = rest.substr(0, character_length(rest.front()));
    const bool is_valid = !invalid_utf8(rest);
    begin_ += is_valid ? rest.size() : 1;
    return is_valid ? character_at(rest, 0) : U'\xFFFD';
  }

  // The window's size, and the mode that a shell changes when the process was stopped and goes on.
  void follow_terminal() {
    winsize size{};
    if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && (size.ws_col != columns_ || size.ws_row != rows_)) {
      if (columns_ != 0) {
        ::el_resize(edit_);
        ::el_wset(edit_, EL_REFRESH);
      }
      columns_ = size.ws_col;
      rows_ = size.ws_row;
    }
    termios mode{};
    if (::tcgetattr(STDIN_FILENO, &mode) == 0 && (mode.c_lflag & ICANON) != 0) {
      ::el_wset(edit_, EL_PREP_TERM, 0);  // libedit thinks that it is in its own mode
      ::el_wset(edit_, EL_PREP_TERM, 1);
      write_to_terminal(kBracketedPasteOn);
      ::el_wset(edit_, EL_REFRESH);
    }
  }

  EditLine* edit_;
  HistoryW* history_;
  const wchar_t* prompt_ = L"";
  bool is_interrupted_ = false;
  std::string ahead_;      // bytes that were read
  std::size_t begin_ = 0;  // of those that are not taken
  int columns_ = 0;
  int rows_ = 0;
};

}  // namespace

std::unique_ptr<LineEditor> LineEditor::make() {
  if (::isatty(STDIN_FILENO) != 1 || ::isatty(STDERR_FILENO) != 1) {
    return nullptr;
  }
  use_utf8_locale();
  EditLine* edit = ::el_init("diffulex-edge", stdin, stderr, stderr);
  HistoryW* history = ::history_winit();
  if (edit == nullptr || history == nullptr) {
    throw std::bad_alloc();
  }
  return std::make_unique<LibeditLineEditor>(edit, history);
}

}  // namespace diffulex_edge::cli
