#include "tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "diffulex_edge/error.h"
#include "tokenizer/fields.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kMaxForms = 64;  // each costs time for every text

}  // namespace

Normalizer::Normalizer(const nlohmann::json& value, const std::string& where) {
  if (!value.is_null()) {
    add(value, where);
  }
}

void Normalizer::add(const nlohmann::json& value, const std::string& where) {
  const Fields fields(value, where);
  if (forms_.size() > kMaxForms) {
    fields.fail("it has more than " + std::to_string(kMaxForms) + " steps");
  }
  const std::string& type = fields.text("type");
  if (type == "Sequence") {
    for (const nlohmann::json& member : fields.list("normalizers")) {
      add(member, where);
    }
  } else if (type == "NFC") {
    forms_.push_back(Form::kNfc);
  } else if (type == "NFD") {
    forms_.push_back(Form::kNfd);
  } else if (type == "NFKC") {
    forms_.push_back(Form::kNfkc);
  } else if (type == "NFKD") {
    forms_.push_back(Form::kNfkd);
  } else {
    fields.fail_unsupported("the normalizer '" + type +
                            "' is not supported; supported are NFC, NFD, NFKC, NFKD and Sequence");
  }
}

std::string Normalizer::apply(std::string_view text) const {
  std::string result(text);
  if (std::ranges::all_of(text, [](char byte) { return static_cast<unsigned char>(byte) < 0x80; })) {
    return result;  // ASCII is in every form
  }
  for (const Form form : forms_) {
    unsigned options = UTF8PROC_STABLE;
    options |= form == Form::kNfc || form == Form::kNfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    options |= form == Form::kNfkc || form == Form::kNfkd ? unsigned{UTF8PROC_COMPAT} : 0U;
    utf8proc_uint8_t* output = nullptr;
    const utf8proc_ssize_t length =
        utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(result.data()),
                     static_cast<utf8proc_ssize_t>(result.size()), &output, static_cast<utf8proc_option_t>(options));
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(output, &std::free);
    if (length == UTF8PROC_ERROR_NOMEM) {
      throw std::bad_alloc();
    }
    if (length < 0) {
      throw Error(ErrorCode::kInternal, "", std::string("Unicode normalization failed: ") + utf8proc_errmsg(length));
    }
    result.assign(reinterpret_cast<const char*>(output), static_cast<std::size_t>(length));
  }
  return result;
}

}  // namespace diffulex_edge
