// A .pte and its methods, in ExecuTorch's runtime.
#pragma once

#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/executor/program.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "core/mapped_file.h"
#include "executorch/heap_allocator.h"
#include "executorch/mapped_data_loader.h"

namespace diffulex_edge::runner {

using Constant = std::variant<std::int64_t, bool, double, std::string>;

class Program {
 public:
  // Throws Error{kBadFile} for a file that the runtime refuses after checking that its program contradicts itself
  // nowhere.
  explicit Program(const std::filesystem::path& path);

  bool has_method(const std::string& name) const;
  // The outputs of a method without inputs. Errors: those of Method, and for values of other types.
  std::vector<Constant> constants(const std::string& name) const;

  const executorch::runtime::Program& get() const { return *program_; }
  std::string name() const { return file_.path().string(); }
  // Throws Error{kBadFile} where the file was cut meanwhile.
  void check() const { file_.check(); }
  // Throws Error{kBadFile}: the runtime refuses `what`.
  [[noreturn]] void refuse(const std::string& what, executorch::runtime::Error error) const;

 private:
  MappedFile file_;
  MappedDataLoader loader_;
  std::unique_ptr<executorch::runtime::Program> program_;
};

// One method, with its memory.
class Method {
 public:
  // `program` must outlive this. Throws Error{kBadFile} for what the runtime refuses.
  Method(const Program& program, const std::string& name);

  executorch::runtime::Method& get() { return *method_; }

 private:
  HeapAllocator method_memory_;
  HeapAllocator temporary_memory_;
  struct Free {
    void operator()(std::uint8_t* memory) const { std::free(memory); }
  };
  // Zeros: an empty cache. The system gives their pages when they are first written to.
  std::vector<std::unique_ptr<std::uint8_t, Free>> planned_;
  std::vector<executorch::runtime::Span<std::uint8_t>> spans_;
  std::unique_ptr<executorch::runtime::HierarchicalAllocator> planned_memory_;
  std::unique_ptr<executorch::runtime::MemoryManager> memory_;
  std::unique_ptr<executorch::runtime::Method> method_;
};

}  // namespace diffulex_edge::runner
