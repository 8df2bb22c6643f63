#include "tokenizer/sentencepiece_model.h"

#include <gtest/gtest.h>

#include <protozero/pbf_writer.hpp>
#include <string>

#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

std::string piece(const std::string& text) {
  std::string bytes;
  protozero::pbf_writer writer(bytes);
  writer.add_string(1, text);
  writer.add_float(2, -1.5F);
  return bytes;
}

SentencePieceModel read(const std::string& bytes) {
  const testing::TemporaryFolder folder;
  testing::write_file(folder / "tokenizer.model", bytes);
  return read_sentencepiece_model(folder / "tokenizer.model");
}

TEST(SentencePieceModel, HasPiecesWithScores) {
  std::string bytes;
  protozero::pbf_writer writer(bytes);
  writer.add_message(1, piece("ab"));
  const SentencePieceModel model = read(bytes);
  ASSERT_EQ(model.pieces.size(), 1U);
  EXPECT_EQ(model.pieces[0].text, "ab");
  EXPECT_EQ(model.pieces[0].score, -1.5F);
}

// protozero asserts this where asserts are on, and reads other bytes where they are off.
TEST(SentencePieceModel, IsRefusedWithAFieldOfAnotherWireType) {
  const auto refused = [](const auto& add) {
    std::string bytes;
    protozero::pbf_writer writer(bytes);
    add(writer);
    writer.add_message(1, piece("ab"));
    testing::expect_error(ErrorCode::kBadFile, {"tokenizer.model", "damaged"}, [&] { read(bytes); });
  };
  refused([](protozero::pbf_writer& model) { model.add_uint64(1, 7); });
  for (const protozero::pbf_tag_type field : {1U, 2U, 3U}) {
    refused([&](protozero::pbf_writer& model) {
      protozero::pbf_writer inside(model, 1);
      inside.add_fixed64(field, 7);
    });
  }
  for (const protozero::pbf_tag_type field : {3U, 24U, 35U, 40U, 45U}) {
    refused([&](protozero::pbf_writer& model) {
      protozero::pbf_writer trainer(model, 2);
      trainer.add_fixed64(field, 7);
    });
  }
  for (const protozero::pbf_tag_type field : {2U, 3U, 5U}) {
    refused([&](protozero::pbf_writer& model) {
      protozero::pbf_writer normalizer(model, 3);
      normalizer.add_fixed64(field, 7);
    });
  }
}

}  // namespace
}  // namespace diffulex_edge
