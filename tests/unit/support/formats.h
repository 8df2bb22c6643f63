// Short names of the formats that tests use most.
#pragma once

#include "diffulex_edge/weight_format.h"

namespace diffulex_edge {

inline WeightFormat int8_per_channel() { return format_row(QuantizationDtype::INT8).format(0); }

inline WeightFormat int4_per_channel() { return format_row(QuantizationDtype::INT4).format(0); }

inline WeightFormat int4_groups(std::int64_t group_size, ElementType scale_type) {
  WeightFormat format = format_row(QuantizationDtype::INT4).format(group_size);
  format.scale_type = scale_type;
  return format;
}

// A table for every `rows_per_table` rows; 0: for the whole weight.
inline WeightFormat palette_format(ElementType element, std::int64_t rows_per_table) {
  return format_row(element).format(rows_per_table);
}

}  // namespace diffulex_edge
