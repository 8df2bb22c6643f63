#include "backends/executorch/program_reader.h"

#include <gtest/gtest.h>

#include "backends/executorch/program_builder.h"
#include "support/expect_error.h"

namespace diffulex_edge::executorch {
namespace {

using Value = InspectedConstant::Value;
using flatbuffers::FlatBufferBuilder;
using flatbuffers::Offset;

// A program of methods without instructions that return one value each.
class Constants {
 public:
  FlatBufferBuilder builder;

  void add(const char* name, Offset<schema::EValue> value, std::int32_t output = 0) {
    const std::vector values = {value};
    const std::vector<std::int32_t> none;
    const std::vector outputs = {output};
    plans_.push_back(schema::CreateExecutionPlanDirect(builder, name, 0, &values, &none, &outputs));
  }
  Offset<schema::EValue> text(const char* value) {
    return schema::CreateEValue(builder, schema::KernelTypes::String,
                                schema::CreateStringDirect(builder, value).Union());
  }
  ProgramContents read() {
    schema::FinishProgramBuffer(builder, schema::CreateProgramDirect(builder, 0, &plans_));
    return read_program(std::as_bytes(std::span(builder.GetBufferPointer(), builder.GetSize())), "x.pte");
  }

 private:
  std::vector<Offset<schema::ExecutionPlan>> plans_;
};

TEST(ProgramReader, ReadsTheConstantsThatTheBuilderWrites) {
  ProgramBuilder program("forward");
  program.set_output(program.planned_tensor(schema::ScalarType::FLOAT, {{.value = 4}}));
  program.add_constant_methods({{.name = "a", .values = {std::int64_t{-7}}},
                                {.name = "b", .values = {false}},
                                {.name = "c", .values = {"text"}},
                                {.name = "d", .values = {std::int64_t{1}}, .is_list = true},
                                {.name = "e", .values = {std::int64_t{1}, "x"}, .is_list = true}});
  const ProgramContents read = read_program(program.serialize({}), "x.pte");
  ASSERT_EQ(read.methods.size(), 1U);
  EXPECT_EQ(read.methods[0].name, "forward");
  ASSERT_EQ(read.metadata.size(), 5U);
  EXPECT_EQ(read.metadata[0].values, std::vector<Value>{std::int64_t{-7}});
  EXPECT_EQ(read.metadata[1].values, std::vector<Value>{false});
  EXPECT_EQ(read.metadata[2].values, std::vector<Value>{"text"});
  EXPECT_EQ(read.metadata[3].values, std::vector<Value>{std::int64_t{1}});
  EXPECT_EQ(read.metadata[4].values, (std::vector<Value>{std::int64_t{1}, "x"}));
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(read.metadata[i].is_list, i > 2) << read.metadata[i].name;
  }
}

TEST(ProgramReader, TakesAPlanWithoutTheFieldsThatConstantsDoNotNeed) {
  Constants constants;
  constants.add("ratio", schema::CreateEValue(constants.builder, schema::KernelTypes::Double,
                                              schema::CreateDouble(constants.builder, 0.5).Union()));
  const ProgramContents read = constants.read();
  ASSERT_EQ(read.metadata.size(), 1U);
  EXPECT_EQ(read.metadata[0].values, std::vector<Value>{0.5});
  EXPECT_FALSE(read.metadata[0].is_list);
}

TEST(ProgramReader, RefusesConstantsThatAreNotThere) {
  const auto refuses = [](const std::string& words, const std::function<void(Constants&)>& add) {
    Constants constants;
    add(constants);
    testing::expect_error(ErrorCode::kBadFile, {"x.pte", words}, [&] { constants.read(); });
  };
  refuses("value 1 does not exist", [](Constants& constants) { constants.add("a", constants.text("x"), 1); });
  refuses("value -1 does not exist", [](Constants& constants) { constants.add("a", constants.text("x"), -1); });
  refuses("'a' returns a value that is missing",
          [](Constants& constants) { constants.add("a", constants.text(nullptr)); });
  refuses("'a' returns a value that is missing", [](Constants& constants) {
    constants.add("a", schema::CreateEValue(constants.builder, schema::KernelTypes::Int));
  });
  refuses("the method 'a' is there twice", [](Constants& constants) {
    constants.add("a", constants.text("x"));
    constants.add("a", constants.text("y"));
  });
}

}  // namespace
}  // namespace diffulex_edge::executorch
