#include "executorch/program.h"

#include <algorithm>
#include <new>
#include <utility>

#include "core/printable.h"
#include "diffulex_edge/error.h"
#include "executorch/runtime_log.h"

namespace diffulex_edge::runner {

namespace et = executorch::runtime;

Program::Program(const std::filesystem::path& path) : file_(path), loader_(file_) {
  forget_runtime_messages();
  et::Result<et::Program> loaded = et::Program::load(&loader_, et::Program::Verification::InternalConsistency);
  file_.check();
  if (!loaded.ok()) {
    refuse("it", loaded.error());
  }
  program_ = std::make_unique<et::Program>(std::move(loaded.get()));
}

void Program::refuse(const std::string& what, et::Error error) const {
  throw Error(ErrorCode::kBadFile, name(),
              "the ExecuTorch runtime refuses " + what + ": " + printable(runtime_message(et::to_string(error))));
}

bool Program::has_method(const std::string& name) const {
  for (std::size_t i = 0; i < program_->num_methods(); ++i) {
    const et::Result<const char*> found = program_->get_method_name(i);
    if (found.ok() && name == found.get()) {
      return true;
    }
  }
  return false;
}

std::vector<Constant> Program::constants(const std::string& name) const {
  Method method(*this, name);
  if (method.get().inputs_size() != 0) {
    refuse("its method " + name, et::Error::InvalidProgram);
  }
  if (const et::Error error = method.get().execute(); error != et::Error::Ok) {
    refuse("its method " + name, error);
  }
  std::vector<Constant> values;
  for (std::size_t i = 0; i < method.get().outputs_size(); ++i) {
    const et::EValue& value = method.get().get_output(i);  // its memory is the method's
    if (value.isInt()) {
      values.emplace_back(value.toInt());
    } else if (value.isBool()) {
      values.emplace_back(value.toBool());
    } else if (value.isDouble()) {
      values.emplace_back(value.toDouble());
    } else if (value.isString()) {
      values.emplace_back(std::string(value.toString()));
    } else {
      refuse("its method " + name, et::Error::InvalidType);
    }
  }
  return values;
}

Method::Method(const Program& program, const std::string& name) {
  forget_runtime_messages();
  const et::Result<et::MethodMeta> meta = program.get().method_meta(name.c_str());
  if (!meta.ok()) {
    program.refuse("its method " + name, meta.error());
  }
  for (std::size_t i = 0; i < meta->num_memory_planned_buffers(); ++i) {
    const et::Result<std::int64_t> bytes = meta->memory_planned_buffer_size(i);
    if (!bytes.ok() || bytes.get() < 0) {
      program.refuse("its method " + name, bytes.ok() ? et::Error::InvalidProgram : bytes.error());
    }
    const auto size = static_cast<std::size_t>(bytes.get());
    planned_.emplace_back(static_cast<std::uint8_t*>(std::calloc(std::max<std::size_t>(size, 1), 1)));
    if (planned_.back() == nullptr) {
      throw std::bad_alloc();
    }
    spans_.emplace_back(planned_.back().get(), size);
  }
  planned_memory_ =
      std::make_unique<et::HierarchicalAllocator>(et::Span<et::Span<std::uint8_t>>(spans_.data(), spans_.size()));
  memory_ = std::make_unique<et::MemoryManager>(&method_memory_, planned_memory_.get(), &temporary_memory_);
  et::Result<et::Method> loaded = program.get().load_method(name.c_str(), memory_.get());
  program.check();
  if (!loaded.ok()) {
    program.refuse("its method " + name, loaded.error());
  }
  method_ = std::make_unique<et::Method>(std::move(loaded.get()));
}

}  // namespace diffulex_edge::runner
