// The extension module diffulex_edge._core: the C++ library's names, for the Python files beside it to pass on.
#include <nanobind/nanobind.h>

#include <string>

#include "bindings.h"
#include "calibration.h"
#include "diffulex_edge/version.h"

namespace nb = nanobind;

NB_MODULE(_core, m) {
  m.doc() = "The C++ library of DiffuLex Edge; import diffulex_edge, not this.";
  m.attr("__version__") = nb::str(std::string(diffulex_edge::version()).c_str());
  diffulex_edge::python::bind_errors();
  diffulex_edge::python::bind_artefacts(m);
  diffulex_edge::python::bind_calibration(m);
  diffulex_edge::python::bind_export(m);
  diffulex_edge::python::bind_generation(m);
  diffulex_edge::python::bind_quantization(m);
}
