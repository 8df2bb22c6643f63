// Where the tensors of a file lie: what the header says against what the file has, and what our writer lays out.

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "checkpoint/tensor_source.h"
#include "diffulex_edge/checkpoint.h"
#include "support/expect_error.h"
#include "support/safetensors_text.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

class SafetensorsLayout : public ::testing::Test {
 protected:
  SafetensorsFile open(const std::string& bytes) {
    testing::write_file(folder_ / "m.safetensors", bytes);
    return SafetensorsFile(folder_ / "m.safetensors");
  }
  // Tensors of U8 at the given [begin, end) in `size` bytes of data.
  static std::string file(const std::vector<std::pair<std::int64_t, std::int64_t>>& ranges, std::size_t size) {
    std::string header;
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      const auto& [begin, end] = ranges[i];
      header += (i == 0 ? "\"" : ",\"") + std::to_string(i) + R"(":{"dtype":"U8","shape":[)" +
                std::to_string(end - begin) + R"(],"data_offsets":[)" + std::to_string(begin) + "," +
                std::to_string(end) + "]}";
    }
    return testing::safetensors_bytes("{" + header + "}", std::string(size, 'x'));
  }
  void expect_refused(const std::string& bytes, const std::string& part) {
    testing::expect_error(ErrorCode::kBadFile, {"m.safetensors", part}, [&] { open(bytes); });
  }
  testing::TemporaryFolder folder_;
};

TEST_F(SafetensorsLayout, TakesTensorsThatTileTheDataInAnyOrder) {
  std::vector<std::pair<std::int64_t, std::int64_t>> ranges = {{0, 3}, {3, 3}, {3, 10}, {10, 11}, {11, 11}};
  std::mt19937 generator(1);
  for (int i = 0; i < 20; ++i) {
    std::ranges::shuffle(ranges, generator);
    const SafetensorsFile opened = open(file(ranges, 11));
    std::size_t at = 0;
    for (const TensorView& view : opened.tensors()) {
      EXPECT_EQ(view.bytes.data(), opened.tensors()[0].bytes.data() + at);
      at += view.bytes.size();
    }
    EXPECT_EQ(at, 11U);
  }
}

// All pairs of ranges within 5 bytes: right exactly where the two tile them.
TEST_F(SafetensorsLayout, RefusesEveryOverlapAndHole) {
  constexpr std::int64_t kSize = 5;
  for (std::int64_t a = 0; a <= kSize; ++a) {
    for (std::int64_t b = a; b <= kSize; ++b) {
      for (std::int64_t c = 0; c <= kSize; ++c) {
        for (std::int64_t d = c; d <= kSize; ++d) {
          const bool tiles = (a == 0 && b == c && d == kSize) || (c == 0 && d == a && b == kSize);
          SCOPED_TRACE(::testing::Message() << a << ".." << b << " and " << c << ".." << d);
          if (tiles) {
            EXPECT_NO_THROW(open(file({{a, b}, {c, d}}, kSize)));
          } else {
            expect_refused(file({{a, b}, {c, d}}, kSize), "byte");
          }
        }
      }
    }
  }
}

TEST_F(SafetensorsLayout, RefusesDataThatBelongToNoTensor) {
  expect_refused(testing::safetensors_bytes("{}", "x"), "end at byte 0");
  EXPECT_NO_THROW(open(testing::safetensors_bytes("{}", "")));
}

TEST_F(SafetensorsLayout, RefusesOffsetsBeyondTheFile) {
  expect_refused(file({{0, 6}}, 5), "ends at byte 6");
  expect_refused(
      testing::safetensors_bytes(
          R"({"a":{"dtype":"U8","shape":[9223372036854775807],"data_offsets":[0,9223372036854775807]}})", "x"),
      "ends at byte 9223372036854775807");
  expect_refused(
      testing::safetensors_bytes(
          R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[9223372036854775806,9223372036854775807]}})", "x"),
      "hole");
}

TEST_F(SafetensorsLayout, RefusesSizesThatOverflow) {
  const auto shaped = [](const std::string& dtype, const std::string& shape, std::int64_t end) {
    return testing::safetensors_bytes(R"({"a":{"dtype":")" + dtype + R"(","shape":[)" + shape +
                                          R"(],"data_offsets":[0,)" + std::to_string(end) + "]}}",
                                      "xxxxxxxx");
  };
  // Each product is 0, 8 or small modulo 2^64.
  for (const auto& [dtype, shape] : {std::pair{"F64", "2305843009213693952"},
                                     {"F64", "2305843009213693953"},
                                     {"U8", "4294967296,4294967296"},
                                     {"U8", "4294967296,4294967296,8"},
                                     {"F32", "4611686018427387904"},
                                     {"U8", "9223372036854775807,2"},
                                     {"F16", "3,3074457345618258603"}}) {
    expect_refused(shaped(dtype, shape, 8), "more than 2^63");
    expect_refused(shaped(dtype, shape, 0), "more than 2^63");
  }
}

TEST_F(SafetensorsLayout, ComparesBytesWithDtypeTimesShape) {
  for (const auto& [dtype, bytes] : {std::pair{"BOOL", 1},
                                     {"U8", 1},
                                     {"I8", 1},
                                     {"F8_E5M2", 1},
                                     {"F8_E4M3", 1},
                                     {"U16", 2},
                                     {"I16", 2},
                                     {"F16", 2},
                                     {"BF16", 2},
                                     {"U32", 4},
                                     {"I32", 4},
                                     {"F32", 4},
                                     {"U64", 8},
                                     {"I64", 8},
                                     {"F64", 8}}) {
    for (const int lie : {-1, 0, 1}) {
      const int size = 6 * bytes + lie;
      const std::string text =
          testing::safetensors_bytes(R"({"a":{"dtype":")" + std::string(dtype) +
                                         R"(","shape":[2,3],"data_offsets":[0,)" + std::to_string(size) + "]}}",
                                     std::string(static_cast<std::size_t>(size), 'x'));
      if (lie == 0) {
        EXPECT_EQ(open(text).tensors()[0].elements(), 6) << dtype;
      } else {
        expect_refused(text, "need " + std::to_string(6 * bytes) + " bytes");
      }
    }
  }
}

TEST_F(SafetensorsLayout, RefusesEveryLyingHeaderLength) {
  const std::string right = file({{0, 3}, {3, 10}}, 10);
  std::uint64_t length = 0;
  std::memcpy(&length, right.data(), sizeof(length));
  for (std::uint64_t lie = 0; lie <= right.size() + 8; ++lie) {
    if (lie != length) {
      std::string bytes = right;
      std::memcpy(bytes.data(), &lie, sizeof(lie));
      expect_refused(bytes, "");
    }
  }
}

TEST_F(SafetensorsLayout, LivesOnWhenMoved) {
  SafetensorsFile first = open(file({{0, 3}}, 3));
  const SafetensorsFile second = std::move(first);
  EXPECT_EQ(second.tensors()[0].bytes[2], std::byte{'x'});
  EXPECT_NE(second.tensors()[0].where().find("m.safetensors: tensor '0'"), std::string::npos);
}

// --- The writer's side.

TEST(SafetensorsWriter, LaysWideTypesFirstAndAlignsEverything) {
  std::vector<TensorToWrite> tensors = {
      {.name = "b8", .dtype = DType::kI8, .shape = {3}},  {.name = "z", .dtype = DType::kF32, .shape = {2, 5}},
      {.name = "h", .dtype = DType::kBF16, .shape = {7}}, {.name = "a", .dtype = DType::kF32, .shape = {1}},
      {.name = "u8", .dtype = DType::kU8, .shape = {5}},  {.name = "none", .dtype = DType::kF32, .shape = {0, 4}}};
  std::int64_t size = 0;
  const std::string head = lay_out_safetensors(tensors, size);
  EXPECT_EQ(head.size() % 8, 0U);
  auto at = static_cast<std::int64_t>(head.size());
  std::size_t width = 8;
  for (const TensorToWrite& tensor : tensors) {
    EXPECT_EQ(tensor.offset, at);
    EXPECT_EQ(tensor.offset % static_cast<std::int64_t>(byte_size(tensor.dtype)), 0) << tensor.name;
    EXPECT_LE(byte_size(tensor.dtype), width);
    width = byte_size(tensor.dtype);
    at += tensor.bytes();
  }
  EXPECT_EQ(size, at);
}

TEST_F(SafetensorsLayout, OurWritersFilesReadBack) {
  const std::vector<testing::TestTensor> tensors = {
      {.name = "quote\" \\ \u00e9\n", .dtype = DType::kI8, .shape = {3}, .bytes = "abc"},
      {.name = "w", .dtype = DType::kF32, .shape = {2, 1}, .bytes = "01234567"},
      {.name = "scalar", .dtype = DType::kBF16, .shape = {}, .bytes = "hi"},
      {.name = "none", .dtype = DType::kF32, .shape = {0}, .bytes = ""}};
  const SafetensorsFile opened = open(testing::safetensors_file(tensors));
  EXPECT_EQ(opened.metadata().at("format"), "pt");
  ASSERT_EQ(opened.tensors().size(), tensors.size());
  for (const testing::TestTensor& wanted : tensors) {
    const auto found = std::ranges::find(opened.tensors(), wanted.name, &TensorView::name);
    ASSERT_NE(found, opened.tensors().end()) << wanted.name;
    EXPECT_EQ(found->dtype, wanted.dtype);
    EXPECT_EQ(found->shape, wanted.shape);
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(found->bytes.data()), found->bytes.size()), wanted.bytes);
  }
}

TEST(SafetensorsWriter, GivesTheSameBytesInWhateverOrderTensorsCome) {
  std::vector<TensorToWrite> tensors = {{.name = "c", .dtype = DType::kI8, .shape = {3}},
                                        {.name = "b", .dtype = DType::kF32, .shape = {2}},
                                        {.name = "a", .dtype = DType::kF32, .shape = {1}}};
  std::int64_t size = 0;
  const std::string head = lay_out_safetensors(tensors, size);
  std::ranges::reverse(tensors);
  EXPECT_EQ(lay_out_safetensors(tensors, size), head);
}

}  // namespace
}  // namespace diffulex_edge
