#include "backends/qnn/pte_container.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "backends/executorch/program_builder.h"
#include "core/mapped_file.h"
#include "core/output_file.h"
#include "diffulex_edge/error.h"
#include "qnn_options_generated.h"

namespace diffulex_edge::qnn {
namespace {

using executorch::schema::ScalarType;

constexpr std::int64_t kDataAlignment = 256;  // of the delegate's data, and bytes of the header before the binary
constexpr std::uint32_t kMagic = 0x5678ABCD;
constexpr std::size_t kPiece = std::size_t{8} << 20U;
constexpr int kHtpBackend = 2;
constexpr int kBurst = 2;

ScalarType scalar_type(OnnxDtype dtype) {
  switch (dtype) {
    case OnnxDtype::kInt32:
      return ScalarType::INT;
    case OnnxDtype::kFloat:
      return ScalarType::FLOAT;
    case OnnxDtype::kFloat16:
      return ScalarType::HALF;
    case OnnxDtype::kUint8:
      return ScalarType::BYTE;
    case OnnxDtype::kUint16:
      return ScalarType::UINT16;
    default:
      throw Error(ErrorCode::kInternal, "container pte", "has no type for an input or output");
  }
}

std::string delegate_options(const Soc& soc) {
  flatbuffers::FlatBufferBuilder builder;
  const auto htp = schema::CreateHtpInfo(builder, soc.htp_architecture, static_cast<std::uint32_t>(soc.vtcm_mebibytes));
  const auto info = schema::CreateSocInfo(builder, soc.model, htp);
  const auto backend = schema::CreateBackendOptions(builder, kHtpBackend, schema::CreateHtpOptions(builder, 0, kBurst));
  // ExecuTorch reads these without asking whether they are there.
  const auto empty = builder.CreateString("");
  const auto packages =
      schema::CreateOpPackages(builder, builder.CreateVector(std::vector<flatbuffers::Offset<schema::OpPackage>>()));
  schema::OptionsBuilder options(builder);
  options.add_library_path(empty);
  options.add_saver_output_dir(empty);
  options.add_op_package_options(packages);
  options.add_soc_info(info);
  options.add_backend_options(backend);
  options.add_is_from_context_binary(true);
  builder.Finish(options.Finish());
  return {reinterpret_cast<const char*>(builder.GetBufferPointer()), builder.GetSize()};
}

// u32 magic, i64 signature, u64 size of the binary, zeros. ExecuTorch keeps contexts by their signatures: another for
// every binary.
std::vector<std::byte> binary_header(std::uint64_t size, const std::string& sha256) {
  std::vector<std::byte> header(kDataAlignment);
  const std::uint64_t signature = std::stoull(sha256.substr(0, 15), nullptr, 16);
  std::memcpy(header.data(), &kMagic, sizeof(kMagic));
  std::memcpy(header.data() + 4, &signature, sizeof(signature));
  std::memcpy(header.data() + 12, &size, sizeof(size));
  return header;
}

}  // namespace

std::int64_t write_pte(const std::filesystem::path& target, const OnnxGraph& graph, const PackagedContext& packaged,
                       const std::vector<executorch::ConstantMethod>& constants, const RunControl& control) {
  const MappedFile mapped(packaged.context.binary);
  const std::span<const std::byte> binary = mapped.bytes();
  executorch::ProgramBuilder builder(packaged.context.graph_name);
  std::vector<executorch::ProgramBuilder::ValueIndex> arguments;
  for (const OnnxGraph::Id value : graph.inputs()) {
    const OnnxType& type = graph.type(value);
    arguments.push_back(builder.planned_tensor(scalar_type(type.dtype), static_shape(type.sizes)));
    builder.set_input(arguments.back());
  }
  for (const OnnxGraph::Id value : graph.outputs()) {
    const OnnxType& type = graph.type(value);
    arguments.push_back(builder.planned_tensor(scalar_type(type.dtype), static_shape(type.sizes)));
    builder.set_output(arguments.back());
  }
  builder.delegate_call("QnnBackend", arguments, 0, {{"qnn_compile_spec", delegate_options(*packaged.soc)}});
  builder.add_constant_methods(constants);
  const std::int64_t payload = kDataAlignment + static_cast<std::int64_t>(binary.size());
  const std::vector<std::byte> program = builder.serialize({.segments = {{.offset = 0, .size = payload}},
                                                            .named = {},
                                                            .constant_segment = 0,
                                                            .constant_offsets = {0},
                                                            .segment_alignment = kDataAlignment,
                                                            .segments_end = payload});
  const auto begin = static_cast<std::int64_t>(program.size());
  OutputFile file(target, begin + payload);
  file.write(0, program);
  file.write(begin, binary_header(binary.size(), packaged.sha256));
  for (std::size_t done = 0; done < binary.size(); done += kPiece) {
    const std::span<const std::byte> piece = binary.subspan(done, std::min(kPiece, binary.size() - done));
    file.write(begin + kDataAlignment + static_cast<std::int64_t>(done), piece);
    MappedFile::release(piece);
    if (control.stop.stop_requested()) {
      throw Error(ErrorCode::kCancelled, {}, "stopped");
    }
  }
  file.flush(control.stop);
  file.commit();
  return begin + payload;
}

}  // namespace diffulex_edge::qnn
