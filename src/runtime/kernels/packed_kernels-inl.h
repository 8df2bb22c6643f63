// The packed kernels over the vectors of one instruction set. To be included once in a file, inside the region that is
// compiled for that set and inside an unnamed namespace: nothing here may be shared between sets.
//
// `Simd` has
//   kVectors, kTokens        vectors of a panel's 16 rows; tokens that are multiplied at once
//   kPanels                  panels of a single token in float32
//   kUnsigned8               dot8() takes q + 128; dot4() always takes q + 8
//   Bytes, Input, Sum, Int, Float   4 bytes of each row; 4 activations for dot(); what dot() adds to; 32 bits a row
//   load, low_nibbles, high_nibbles, bytes8, input, start, dot, total, ...
// All loops have constant bounds and are unrolled; what they index lives in registers.

// What the sum of a group's products begins with: -offset * sum of its activations - zero_point * row_sum.
template <class Simd, PackedElement kElement>
HWY_INLINE Simd::Int correction(const PackedPanels& weights, const IntegerTokens& x, std::size_t row, std::size_t token,
                                std::size_t group) {
  constexpr std::int32_t kFactor8 = Simd::kUnsigned8 ? 16 : 0;
  constexpr std::int32_t kFactor = kElement == PackedElement::kI4 ? 1 : kFactor8;
  const auto base = Simd::set_int(kFactor * x.offsets[token * weights.groups() + group]);
  if (weights.group_scales != nullptr) {
    return base;
  }
  return Simd::subtract_product(base, Simd::load_int(weights.row_sums + row), x.zero_points[token]);
}

template <class Simd>
HWY_INLINE Simd::Float load_group_scale(const PackedPanels& weights, std::size_t panel, std::size_t group,
                                        std::size_t vector) {
  constexpr std::size_t kLanes = kPanelRows / Simd::kVectors;
  return Simd::load_bf16(weights.group_scales + (panel * weights.groups() + group) * kPanelRows + vector * kLanes);
}

// Asks for the weights that come 4 KiB later, beyond the end too: the processor's own guesses begin anew with each
// page.
HWY_INLINE void prefetch(const std::uint8_t* values) { hwy::Prefetch(values + 4096); }

// Adds the products of `steps` steps; `values` and `inputs` are where those begin.
template <class Simd, PackedElement kElement, std::size_t kTokens>
HWY_INLINE void add_products(const std::uint8_t* values, const std::int8_t* inputs, std::size_t columns,
                             std::size_t steps, typename Simd::Sum (&sums)[kTokens][Simd::kVectors]) {
  constexpr std::size_t kVectors = Simd::kVectors;
  constexpr std::size_t kLanes = kPanelRows / kVectors;
  for (std::size_t step = 0; step < steps; ++step) {
    prefetch(values);
    typename Simd::Input low[kTokens];
    typename Simd::Input high[kTokens];
#pragma GCC unroll 16
    for (std::size_t t = 0; t < kTokens; ++t) {
      low[t] = Simd::input(inputs + t * columns);
      if constexpr (kElement == PackedElement::kI4) {
        high[t] = Simd::input(inputs + t * columns + 4);
      }
    }
#pragma GCC unroll 16
    for (std::size_t v = 0; v < kVectors; ++v) {
      const auto bytes = Simd::load(values + v * 4 * kLanes);
      if constexpr (kElement == PackedElement::kI4) {
        const auto low_weights = Simd::low_nibbles(bytes);
        const auto high_weights = Simd::high_nibbles(bytes);
#pragma GCC unroll 16
        for (std::size_t t = 0; t < kTokens; ++t) {
          sums[t][v] = Simd::dot4(sums[t][v], low_weights, low[t]);
          sums[t][v] = Simd::dot4(sums[t][v], high_weights, high[t]);
        }
      } else {
        const auto wide = Simd::bytes8(bytes);
#pragma GCC unroll 16
        for (std::size_t t = 0; t < kTokens; ++t) {
          sums[t][v] = Simd::dot8(sums[t][v], wide, low[t]);
        }
      }
    }
    inputs += step_columns(kElement);
    values += step_bytes(kElement);
  }
}

// The sums of products for kI4 where there is no dot product to 32 bits: they are added up in 16 bits first.
//   kPairSteps               steps whose sums fit
//   Pairs, zero_pairs(), dot_pairs(pairs, weights, input), widen(pairs), add(sum, sum)
template <class Simd>
concept HasPairs = requires { Simd::kPairSteps; };

// One vector after the other, so that its sums of all tokens stay in registers.
template <class Simd, std::size_t kTokens>
HWY_INLINE void sum_pair_products(const std::uint8_t* values, const std::int8_t* inputs, std::size_t columns,
                                  std::size_t steps, typename Simd::Sum (&sums)[kTokens][Simd::kVectors]) {
  constexpr std::size_t kLanes = kPanelRows / Simd::kVectors;
  constexpr std::size_t kStep = step_columns(PackedElement::kI4);
#pragma GCC unroll 16
  for (std::size_t v = 0; v < Simd::kVectors; ++v) {
    const std::uint8_t* bytes = values + v * 4 * kLanes;
    std::size_t step = 0;
    do {  // once at least, which initializes the sums
      const std::size_t end = step + Simd::kPairSteps < steps ? step + Simd::kPairSteps : steps;
      const bool is_first = step == 0;
      typename Simd::Pairs pairs[kTokens];
#pragma GCC unroll 16
      for (std::size_t t = 0; t < kTokens; ++t) {
        pairs[t] = Simd::zero_pairs();
      }
      for (; step < end; ++step) {
        if (v == 0) {
          prefetch(bytes + step * step_bytes(PackedElement::kI4));
        }
        const auto both = Simd::load(bytes + step * step_bytes(PackedElement::kI4));
        const auto low = Simd::low_nibbles(both);
        const auto high = Simd::high_nibbles(both);
#pragma GCC unroll 16
        for (std::size_t t = 0; t < kTokens; ++t) {
          const std::int8_t* input = inputs + t * columns + step * kStep;
          pairs[t] = Simd::dot_pairs(pairs[t], low, Simd::input(input));
          pairs[t] = Simd::dot_pairs(pairs[t], high, Simd::input(input + 4));
        }
      }
#pragma GCC unroll 16
      for (std::size_t t = 0; t < kTokens; ++t) {
        const auto sum = Simd::widen(pairs[t]);
        sums[t][v] = is_first ? sum : Simd::add(sums[t][v], sum);
      }
    } while (step < steps);
  }
}

// One panel times kTokens tokens.
template <class Simd, PackedElement kElement, std::size_t kTokens>
HWY_INLINE void integer_tile(const PackedPanels& weights, std::size_t panel, const IntegerTokens& x, std::size_t token,
                             float* out, std::size_t stride) {
  constexpr std::size_t kVectors = Simd::kVectors;
  constexpr std::size_t kLanes = kPanelRows / kVectors;
  constexpr std::size_t kStep = step_columns(kElement);
  const bool grouped = weights.group_scales != nullptr;
  const std::uint8_t* values = weights.values + panel * weights.panel_bytes();
  const std::int8_t* inputs = x.values + token * weights.columns;
  typename Simd::Float totals[kTokens][kVectors];
#pragma GCC unroll 16
  for (std::size_t t = 0; t < kTokens; ++t) {
#pragma GCC unroll 16
    for (std::size_t v = 0; v < kVectors; ++v) {
      totals[t][v] = Simd::set_float(0.0F);
      if (grouped) {
        totals[t][v] = Simd::multiply(Simd::set_float(static_cast<float>(-x.zero_points[token + t])),
                                      Simd::load_float(weights.row_totals + panel * kPanelRows + v * kLanes));
      }
    }
  }
  const std::size_t steps = weights.group_columns / kStep;
  for (std::size_t group = 0; group < weights.groups(); ++group) {
    typename Simd::Sum sums[kTokens][kVectors];
    constexpr bool kPairs = kElement == PackedElement::kI4 && HasPairs<Simd>;
    if constexpr (kPairs) {
      sum_pair_products<Simd, kTokens>(values, inputs, weights.columns, steps, sums);
    }
#pragma GCC unroll 16
    for (std::size_t t = 0; t < kTokens; ++t) {
#pragma GCC unroll 16
      for (std::size_t v = 0; v < kVectors; ++v) {
        const auto start =
            Simd::start(correction<Simd, kElement>(weights, x, panel * kPanelRows + v * kLanes, token + t, group));
        if constexpr (kPairs) {
          sums[t][v] = Simd::add(sums[t][v], start);
        } else {
          sums[t][v] = start;
        }
      }
    }
    if constexpr (!kPairs) {
      add_products<Simd, kElement, kTokens>(values, inputs, weights.columns, steps, sums);
    }
    inputs += weights.group_columns;
    values += steps * step_bytes(kElement);
#pragma GCC unroll 16
    for (std::size_t v = 0; v < kVectors; ++v) {
      const std::size_t row = panel * kPanelRows + v * kLanes;
      if (grouped) {
        const auto scale = load_group_scale<Simd>(weights, panel, group, v);
#pragma GCC unroll 16
        for (std::size_t t = 0; t < kTokens; ++t) {
          totals[t][v] = Simd::multiply_add(Simd::to_float(Simd::total(sums[t][v])), scale, totals[t][v]);
        }
      } else {
        const auto scale = Simd::load_float(weights.row_scales + row);
#pragma GCC unroll 16
        for (std::size_t t = 0; t < kTokens; ++t) {
          totals[t][v] = Simd::multiply(Simd::to_float(Simd::total(sums[t][v])), scale);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (std::size_t t = 0; t < kTokens; ++t) {
#pragma GCC unroll 16
    for (std::size_t v = 0; v < kVectors; ++v) {
      Simd::store(Simd::multiply(totals[t][v], Simd::set_float(x.scales[token + t])),
                  out + (token + t) * stride + panel * kPanelRows + v * kLanes);
    }
  }
}

// kPanels panels times kTokens tokens.
template <class Simd, PackedElement kElement, std::size_t kPanels, std::size_t kTokens>
HWY_INLINE void float_tile(const PackedPanels& weights, std::size_t panel, const FloatTokens& x, std::size_t token,
                           float* out, std::size_t stride) {
  constexpr std::size_t kVectors = kPanels * Simd::kVectors;
  constexpr std::size_t kLanes = kPanelRows / Simd::kVectors;
  constexpr std::size_t kStep = step_columns(kElement);
  constexpr std::size_t kLaneBytes = step_bytes(kElement) / kPanelRows;
  const std::size_t panel_bytes = weights.panel_bytes();
  const std::uint8_t* values = weights.values + panel * panel_bytes;
  const float* inputs = x.values + token * weights.columns;
  typename Simd::Float totals[kTokens][kVectors];
#pragma GCC unroll 16
  for (std::size_t t = 0; t < kTokens; ++t) {
#pragma GCC unroll 16
    for (std::size_t v = 0; v < kVectors; ++v) {
      totals[t][v] = Simd::set_float(0.0F);
    }
  }
  const std::size_t steps = weights.group_columns / kStep;
  for (std::size_t group = 0; group < weights.groups(); ++group) {
    typename Simd::Float sums[kTokens][kVectors];
#pragma GCC unroll 16
    for (std::size_t t = 0; t < kTokens; ++t) {
#pragma GCC unroll 16
      for (std::size_t v = 0; v < kVectors; ++v) {
        sums[t][v] = Simd::set_float(0.0F);
      }
    }
    for (std::size_t step = 0; step < steps; ++step) {
#pragma GCC unroll 16
      for (std::size_t v = 0; v < kVectors; ++v) {
        const std::uint8_t* at = values + v / Simd::kVectors * panel_bytes + v % Simd::kVectors * kLaneBytes * kLanes;
#pragma GCC unroll 16
        for (std::size_t column = 0; column < kStep; ++column) {
          const auto w = Simd::template column<kElement>(at, static_cast<int>(column));
#pragma GCC unroll 16
          for (std::size_t t = 0; t < kTokens; ++t) {
            sums[t][v] = Simd::multiply_add(Simd::set_float(inputs[t * weights.columns + column]), w, sums[t][v]);
          }
        }
      }
      inputs += kStep;
      values += step_bytes(kElement);
    }
#pragma GCC unroll 16
    for (std::size_t t = 0; t < kTokens; ++t) {
#pragma GCC unroll 16
      for (std::size_t v = 0; v < kVectors; ++v) {
        if (weights.group_scales != nullptr) {
          const auto scale = load_group_scale<Simd>(weights, panel + v / Simd::kVectors, group, v % Simd::kVectors);
          totals[t][v] = Simd::multiply_add(sums[t][v], scale, totals[t][v]);
        } else if (weights.row_scales != nullptr) {
          const auto scale = Simd::load_float(weights.row_scales + panel * kPanelRows + v * kLanes);
          totals[t][v] = Simd::multiply(sums[t][v], scale);
        } else {
          totals[t][v] = sums[t][v];
        }
      }
    }
  }
#pragma GCC unroll 16
  for (std::size_t t = 0; t < kTokens; ++t) {
#pragma GCC unroll 16
    for (std::size_t v = 0; v < kVectors; ++v) {
      Simd::store(totals[t][v], out + (token + t) * stride + panel * kPanelRows + v * kLanes);
    }
  }
}

template <class Simd, PackedElement kElement, std::size_t kTokens>
HWY_INLINE void multiply_tokens(const PackedPanels& weights, const IntegerTokens& x, std::size_t token, float* out,
                                std::size_t stride) {
  for (std::size_t panel = 0; panel < weights.panels; ++panel) {
    integer_tile<Simd, kElement, kTokens>(weights, panel, x, token, out, stride);
  }
}

// A single token goes through several panels at once: its sums would wait for each other.
template <class Simd, PackedElement kElement, std::size_t kTokens>
HWY_INLINE void multiply_tokens(const PackedPanels& weights, const FloatTokens& x, std::size_t token, float* out,
                                std::size_t stride) {
  constexpr std::size_t kPanels = kTokens == 1 ? Simd::kPanels : 1;
  std::size_t panel = 0;
  for (; panel + kPanels <= weights.panels; panel += kPanels) {
    float_tile<Simd, kElement, kPanels, kTokens>(weights, panel, x, token, out, stride);
  }
  for (; kPanels > 1 && panel < weights.panels; ++panel) {
    float_tile<Simd, kElement, 1, kTokens>(weights, panel, x, token, out, stride);
  }
}

// Tokens that are multiplied at once share a panel's bytes.
template <class Simd, PackedElement kElement, class Tokens>
void multiply(const PackedPanels& weights, const Tokens& x, float* out, std::size_t stride) {
  constexpr std::size_t kHalf = Simd::kTokens / 2;
  std::size_t token = 0;
  for (; token + Simd::kTokens <= x.tokens; token += Simd::kTokens) {
    multiply_tokens<Simd, kElement, Simd::kTokens>(weights, x, token, out, stride);
  }
  for (; token + kHalf <= x.tokens; token += kHalf) {
    multiply_tokens<Simd, kElement, kHalf>(weights, x, token, out, stride);
  }
  for (; token < x.tokens; ++token) {
    multiply_tokens<Simd, kElement, 1>(weights, x, token, out, stride);
  }
}

template <class Simd>
void multiply_integers(const PackedPanels& weights, const IntegerTokens& x, float* out, std::size_t stride) {
  if (weights.element == PackedElement::kI8) {
    multiply<Simd, PackedElement::kI8>(weights, x, out, stride);
  } else {
    multiply<Simd, PackedElement::kI4>(weights, x, out, stride);
  }
}

template <class Simd>
void multiply_floats(const PackedPanels& weights, const FloatTokens& x, float* out, std::size_t stride) {
  switch (weights.element) {
    case PackedElement::kI8:
      return multiply<Simd, PackedElement::kI8>(weights, x, out, stride);
    case PackedElement::kI4:
      return multiply<Simd, PackedElement::kI4>(weights, x, out, stride);
    case PackedElement::kF16:
      return multiply<Simd, PackedElement::kF16>(weights, x, out, stride);
  }
}
