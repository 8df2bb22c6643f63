// Where models lie, and artefacts that nobody named a place for, and how these are copied.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <string>

#include "bindings.h"
#include "bundle/bundle.h"
#include "core/copy_output.h"
#include "core/temporary_place.h"
#include "diffulex_edge/checkpoint.h"

namespace nb = nanobind;

namespace diffulex_edge::python {

void bind_artefacts(nb::module_& module) {
  nb::class_<Workspace>(module, "Workspace", "A temporary folder on a disk, removed with this object.")
      .def(nb::init<>())
      .def("folder", [](Workspace& self) { return self.folder().string(); });
  module.def(
      "copy_artefact",
      [](const std::string& source, const std::string& target) {
        const nb::gil_scoped_release unlock;
        copy_to_output(source, target);
      },
      nb::arg("source"), nb::arg("target"));
  module.def(
      "find_model_folder", [](const std::string& name) { return find_model_folder(name).string(); }, nb::arg("name"),
      "The folder of a model, which may be ORG/NAME in the Hugging Face cache.");
  module.def("is_bundle", [](const std::string& folder) { return is_bundle(folder); }, nb::arg("folder"));
  module.def(
      "tokenizer_digest", [](const std::string& folder) { return tokenizer_digest(folder); }, nb::arg("folder"),
      "What get_tokenizer_hash is for a folder's tokenizer; None where there is none.");
  module.def(
      "open_bundle",
      [](const std::string& folder) {
        const nb::gil_scoped_release unlock;
        const Bundle bundle = read_bundle(folder);
        check_files(bundle);
        return bundle.artefact_path().string();
      },
      nb::arg("folder"), "The path of its artefact, once its files are those that generation.json describes.");
}

}  // namespace diffulex_edge::python
