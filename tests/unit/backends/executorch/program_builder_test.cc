#include "backends/executorch/program_builder.h"

#include <gtest/gtest.h>

#include <cstring>

#include "support/expect_error.h"

namespace diffulex_edge::executorch {
namespace {

const schema::Program& program_of(const std::vector<std::byte>& bytes) {
  const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
  flatbuffers::Verifier verifier(data, bytes.size());
  EXPECT_TRUE(schema::VerifyProgramBuffer(verifier));
  return *schema::GetProgram(data);
}

TEST(ProgramBuilder, PlansTensorsApartAndAligned) {
  ProgramBuilder builder("forward");
  const auto ids = builder.planned_tensor(schema::ScalarType::LONG, {{.value = 1}, {.value = 7, .is_sequence = true}});
  const auto odd = builder.planned_tensor(schema::ScalarType::CHAR, {{.value = 3}});
  const auto last = builder.planned_tensor(schema::ScalarType::HALF, {{.value = 5}});
  EXPECT_EQ(builder.arena_bytes(), 64 + 16 + 16);
  const auto bytes = builder.serialize({});
  const auto& plan = *program_of(bytes).execution_plan()->Get(0);
  EXPECT_EQ(plan.name()->str(), "forward");
  const auto tensor = [&](std::int32_t index) {
    return plan.values()->Get(static_cast<std::uint32_t>(index))->val_as_Tensor();
  };
  EXPECT_EQ(tensor(ids)->allocation_info()->memory_offset_low(), 0U);
  EXPECT_EQ(tensor(odd)->allocation_info()->memory_offset_low(), 64U);
  EXPECT_EQ(tensor(last)->allocation_info()->memory_offset_low(), 80U);
  EXPECT_EQ(tensor(last)->allocation_info()->memory_id(), 1U);
  EXPECT_EQ(tensor(ids)->shape_dynamism(), schema::TensorShapeDynamism::DYNAMIC_BOUND);
  EXPECT_EQ(tensor(odd)->shape_dynamism(), schema::TensorShapeDynamism::STATIC);
  ASSERT_EQ(plan.non_const_buffer_sizes()->size(), 2U);
  EXPECT_EQ(plan.non_const_buffer_sizes()->Get(0), 0);
  EXPECT_EQ(plan.non_const_buffer_sizes()->Get(1), 96);
}

TEST(ProgramBuilder, BuffersLieApartAndViewsInThem) {
  ProgramBuilder builder("forward");
  const auto first = builder.buffer(schema::ScalarType::HALF, {2, 10, 3});
  const auto second = builder.buffer(schema::ScalarType::FLOAT, {4});
  const auto view = builder.view(second, 8, {2});
  const auto two = builder.integer(2);
  const auto sizes = builder.integers({two, two});
  const auto indices = builder.optional_tensors({-1, view});
  EXPECT_EQ(builder.buffer_bytes(), 256 + 256);  // 120 and 16 bytes, each with the 128 that may be read beyond them
  EXPECT_EQ(builder.arena_bytes(), 0);
  const auto bytes = builder.serialize({});
  const auto& plan = *program_of(bytes).execution_plan()->Get(0);
  const auto value = [&](std::int32_t index) { return plan.values()->Get(static_cast<std::uint32_t>(index)); };
  EXPECT_EQ(value(first)->val_as_Tensor()->allocation_info()->memory_id(), 2U);
  EXPECT_EQ(value(first)->val_as_Tensor()->shape_dynamism(), schema::TensorShapeDynamism::STATIC);
  EXPECT_EQ(value(second)->val_as_Tensor()->allocation_info()->memory_offset_low(), 256U);
  EXPECT_EQ(value(view)->val_as_Tensor()->allocation_info()->memory_offset_low(), 264U);
  EXPECT_EQ(value(view)->val_as_Tensor()->scalar_type(), schema::ScalarType::FLOAT);
  EXPECT_EQ(value(view)->val_as_Tensor()->shape_dynamism(), schema::TensorShapeDynamism::DYNAMIC_BOUND);
  EXPECT_EQ(value(sizes)->val_as_IntList()->items()->Get(1), two);
  EXPECT_EQ(value(indices)->val_as_OptionalTensorList()->items()->Get(0), -1);
  ASSERT_EQ(plan.non_const_buffer_sizes()->size(), 3U);
  EXPECT_EQ(plan.non_const_buffer_sizes()->Get(2), 512);
}

TEST(ProgramBuilder, SplitsOffsetsBeyondFourGibibytes) {
  ProgramBuilder builder("forward");
  builder.planned_tensor(schema::ScalarType::FLOAT, {{.value = 1 << 20}, {.value = 4097}});  // 16 GiB and 4 MiB
  const auto second = builder.planned_tensor(schema::ScalarType::FLOAT, {{.value = 1}});
  const auto bytes = builder.serialize({});
  const auto* info = program_of(bytes)
                         .execution_plan()
                         ->Get(0)
                         ->values()
                         ->Get(static_cast<std::uint32_t>(second))
                         ->val_as_Tensor()
                         ->allocation_info();
  EXPECT_EQ(info->memory_offset_high(), 4U);
  EXPECT_EQ(info->memory_offset_low(), 4U << 20U);
}

TEST(ProgramBuilder, RefusesSizesThatTheFormatCantHold) {
  ProgramBuilder builder("forward");
  testing::expect_error(ErrorCode::kUnsupported, {"2147483648", "31 bits"},
                        [&] { builder.planned_tensor(schema::ScalarType::CHAR, {{.value = std::int64_t{1} << 31U}}); });
  testing::expect_error(ErrorCode::kUnsupported, {"31 bits"},
                        [&] { builder.constant_tensor(schema::ScalarType::CHAR, {std::int64_t{1} << 31U}, 1, ""); });
  EXPECT_NO_THROW(builder.constant_tensor(schema::ScalarType::CHAR, {(std::int64_t{1} << 31U) - 1}, 1, ""));
}

TEST(ProgramBuilder, ListsEachOperatorOnceAndEachCallInOrder) {
  ProgramBuilder builder("forward");
  const auto x = builder.planned_tensor(schema::ScalarType::FLOAT, {{.value = 4}});
  const auto number = builder.integer(-128);
  const auto truth = builder.boolean(true);
  const auto nothing = builder.null();
  const auto table = builder.constant_tensor(schema::ScalarType::CHAR, {3, 5}, 2, "table");
  builder.set_input(x);
  builder.set_output(table);
  builder.kernel_call("aten::a", "out", {x, number});
  builder.kernel_call("aten::b", "", {truth});
  builder.kernel_call("aten::a", "int", {nothing});
  builder.delegate_call("Some", {x, table}, 9);
  builder.kernel_call("aten::a", "out", {});
  EXPECT_EQ(builder.kernel_names(), (std::vector<std::string>{"aten::a.out", "aten::b", "aten::a.int", "aten::a.out"}));
  const auto bytes = builder.serialize({});
  const auto& plan = *program_of(bytes).execution_plan()->Get(0);
  EXPECT_EQ(plan.operators()->size(), 3U);
  EXPECT_EQ(plan.inputs()->Get(0), x);
  EXPECT_EQ(plan.outputs()->Get(0), table);
  const auto value = [&](std::int32_t index) { return plan.values()->Get(static_cast<std::uint32_t>(index)); };
  EXPECT_EQ(value(number)->val_as_Int()->int_val(), -128);
  EXPECT_TRUE(value(truth)->val_as_Bool()->bool_val());
  EXPECT_EQ(value(nothing)->val_type(), schema::KernelTypes::Null);
  const auto* constant = value(table)->val_as_Tensor();
  EXPECT_EQ(constant->data_buffer_idx(), 2U);
  EXPECT_EQ(constant->allocation_info(), nullptr);
  EXPECT_EQ(constant->sizes()->Get(1), 5);
  EXPECT_EQ(constant->dim_order()->Get(1), 1);
  const auto& instructions = *plan.chains()->Get(0)->instructions();
  ASSERT_EQ(instructions.size(), 5U);
  EXPECT_EQ(instructions.Get(0)->instr_args_as_KernelCall()->args()->Get(1), number);
  EXPECT_EQ(instructions.Get(4)->instr_args_as_KernelCall()->op_index(),
            instructions.Get(0)->instr_args_as_KernelCall()->op_index());
  const auto* delegate = instructions.Get(3)->instr_args_as_DelegateCall();
  ASSERT_NE(delegate, nullptr);
  EXPECT_EQ(delegate->delegate_index(), 0);
  EXPECT_EQ(delegate->args()->Get(1), table);
  EXPECT_EQ(plan.delegates()->Get(0)->id()->str(), "Some");
  EXPECT_EQ(plan.delegates()->Get(0)->processed()->location(), schema::DataLocation::SEGMENT);
  EXPECT_EQ(plan.delegates()->Get(0)->processed()->index(), 9U);
}

TEST(ProgramBuilder, WritesItsSegmentsAndNamedData) {
  const ProgramBuilder builder("forward");
  const auto bytes = builder.serialize({.segments = {{.offset = 0, .size = 5}, {.offset = 128, .size = 7}},
                                        .named = {{"b", 1}, {"a", 0}},
                                        .constant_segment = 1,
                                        .constant_offsets = {0, 0, 64},
                                        .segment_alignment = 128,
                                        .segments_end = 135});
  EXPECT_EQ(bytes.size() % 128, 0U);
  const schema::Program& program = program_of(bytes);
  EXPECT_EQ(program.segments()->Get(1)->offset(), 128U);
  EXPECT_EQ(program.segments()->Get(1)->size(), 7U);
  EXPECT_EQ(program.constant_segment()->segment_index(), 1U);
  EXPECT_EQ(program.constant_segment()->offsets()->Get(2), 64U);
  EXPECT_EQ(program.named_data()->Get(0)->key()->str(), "b");
  EXPECT_EQ(program.named_data()->Get(0)->segment_index(), 1U);
}

TEST(ProgramBuilder, WritesConstantMethodsBehindTheMethodByName) {
  ProgramBuilder builder("forward");
  builder.add_constant_methods({{.name = "get_z", .values = {std::int64_t{1} << 40U}},
                                {.name = "get_b", .values = {true}},
                                {.name = "get_text", .values = {"a text"}},
                                {.name = "get_ids", .values = {std::int64_t{3}, std::int64_t{5}}, .is_list = true}});
  const auto bytes = builder.serialize({});
  EXPECT_EQ(bytes, builder.serialize({}));
  const auto& plans = *program_of(bytes).execution_plan();
  std::vector<std::string> names;
  for (const schema::ExecutionPlan* plan : plans) {
    names.push_back(plan->name()->str());
  }
  EXPECT_EQ(names, (std::vector<std::string>{"forward", "get_b", "get_ids", "get_text", "get_z"}));
  const auto value = [&](unsigned plan, unsigned index) { return plans.Get(plan)->values()->Get(index); };
  EXPECT_TRUE(value(1, 0)->val_as_Bool()->bool_val());
  EXPECT_EQ(value(2, 1)->val_as_Int()->int_val(), 5);
  EXPECT_EQ(value(3, 0)->val_as_String()->string_val()->str(), "a text");
  EXPECT_EQ(value(4, 0)->val_as_Int()->int_val(), std::int64_t{1} << 40U);
  ASSERT_EQ(plans.Get(2)->outputs()->size(), 2U);
  EXPECT_EQ(plans.Get(2)->outputs()->Get(1), 1);
  EXPECT_EQ(plans.Get(2)->inputs()->size(), 0U);
  ASSERT_EQ(plans.Get(2)->chains()->size(), 1U);
  EXPECT_EQ(plans.Get(2)->chains()->Get(0)->instructions()->size(), 0U);
  ASSERT_EQ(plans.Get(2)->non_const_buffer_sizes()->size(), 1U);
}

TEST(ProgramBuilder, HasNoTwoMethodsOfOneName) {
  ProgramBuilder builder("forward");
  const auto add = [&](const std::string& name) { builder.add_constant_methods({{.name = name, .values = {true}}}); };
  add("get_a");
  testing::expect_error(ErrorCode::kInternal, {"get_a"}, [&] { add("get_a"); });
  testing::expect_error(ErrorCode::kInternal, {"forward"}, [&] { add("forward"); });
}

TEST(ElementBytes, AreExecuTorchs) {
  EXPECT_EQ(element_bytes(schema::ScalarType::BYTE), 1);
  EXPECT_EQ(element_bytes(schema::ScalarType::CHAR), 1);
  EXPECT_EQ(element_bytes(schema::ScalarType::HALF), 2);
  EXPECT_EQ(element_bytes(schema::ScalarType::FLOAT), 4);
  EXPECT_EQ(element_bytes(schema::ScalarType::LONG), 8);
  testing::expect_error(ErrorCode::kInternal, {}, [] { element_bytes(schema::ScalarType::DOUBLE); });
}

}  // namespace
}  // namespace diffulex_edge::executorch
