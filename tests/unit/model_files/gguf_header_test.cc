#include "model_files/gguf_header.h"

#include <gtest/gtest.h>

#include <fstream>

#include "model_files/gguf_file.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

class GgufHeaderTest : public ::testing::Test {
 protected:
  GgufFile written(const GgufHeader& header, std::vector<GgufTensorToWrite>& tensors) {
    std::int64_t bytes = 0;
    std::string text = header.lay_out(tensors, bytes);
    text.resize(static_cast<std::size_t>(bytes), 'x');
    testing::write_file(folder_ / "m.gguf", text);
    return GgufFile(folder_ / "m.gguf");
  }
  testing::TemporaryFolder folder_;
};

TEST_F(GgufHeaderTest, IsReadBackKeyByKey) {
  GgufHeader header;
  header.add_text("text", "caf\xC3\xA9");
  header.add_integer("integer", 0xFFFFFFFFU);
  header.add_number("number", 0.5F);
  header.add_boolean("boolean", true);
  header.add_texts("texts", std::vector<std::string>{"a", "", "b c"});
  header.add_integers("integers", std::vector<std::int32_t>{-1, 7});
  header.add_numbers("numbers", std::vector<float>{1.5F});
  std::vector<GgufTensorToWrite> none;
  const GgufFile file = written(header, none);
  EXPECT_EQ(file.text("text"), "caf\xC3\xA9");
  EXPECT_EQ(file.integer("integer"), 0xFFFFFFFF);
  EXPECT_EQ(file.number("number"), 0.5);
  EXPECT_EQ(file.boolean("boolean"), true);
  EXPECT_EQ(file.texts("texts"), (std::vector<std::string_view>{"a", "", "b c"}));
  EXPECT_EQ(file.integers("integers"), (std::vector<std::int64_t>{-1, 7}));
  EXPECT_EQ(file.floats("numbers"), std::vector<float>{1.5F});

  GgufHeader copy;
  for (const std::string& key : file.keys()) {
    copy.add_value(key, file.value(key));
  }
  const GgufFile again = written(copy, none);
  EXPECT_EQ(again.keys(), file.keys());
  EXPECT_EQ(again.texts("texts").size(), 3U);
  EXPECT_EQ(again.integer("integer"), 0xFFFFFFFF);
}

TEST_F(GgufHeaderTest, LaysTensorsOutInStepsOf32) {
  std::vector<GgufTensorToWrite> tensors = {{.name = "a", .shape = {3}, .type = 0, .bytes = 12},
                                            {.name = "b", .shape = {2, 3, 32}, .type = 8, .bytes = 204}};
  const GgufFile file = written({}, tensors);
  ASSERT_EQ(file.tensors().size(), 2U);
  EXPECT_EQ(file.tensors()[1].shape, (std::vector<std::int64_t>{2, 3, 32}));
  EXPECT_EQ(file.tensors()[1].offset, 32U);
  EXPECT_EQ(tensors[0].offset % 32, 0);
  EXPECT_EQ(tensors[1].offset, tensors[0].offset + 32);
  EXPECT_EQ(file.data().size(), 256U);
}

TEST_F(GgufHeaderTest, OneObjectServesAllWhoHaveTheFile) {
  std::vector<GgufTensorToWrite> none;
  GgufHeader header;
  header.add_integer("a", 1);
  written(header, none);
  auto first = open_gguf(folder_ / "m.gguf");
  EXPECT_EQ(open_gguf(folder_ / "m.gguf"), first);
  header.add_integer("b", 2);
  written(header, none);
  EXPECT_EQ(open_gguf(folder_ / "m.gguf")->integer("b"), 2);  // the file is another one
}

}  // namespace
}  // namespace diffulex_edge
