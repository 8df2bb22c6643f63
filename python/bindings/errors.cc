// The library's exception in Python: one class for each code, which also is what Python's own functions would raise.
#include "diffulex_edge/error.h"

#include <exception>
#include <string>

#include "bindings.h"

namespace nb = nanobind;

namespace diffulex_edge::python {
namespace {

void translate(const std::exception_ptr& pointer, void* /*payload*/) {
  try {
    std::rethrow_exception(pointer);
  } catch (const Error& error) {
    // Not kept from when the module was made: the stub generator imports the module without its package.
    const nb::object of_code = nb::module_::import_("diffulex_edge._errors").attr("of_code");
    const std::string code(to_string(error.code()));
    const nb::object exception = of_code(code.c_str(), error.what(), error.where().c_str(), error.advice().c_str());
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
  }
}

}  // namespace

void bind_errors() { nb::register_exception_translator(translate, nullptr); }

}  // namespace diffulex_edge::python
