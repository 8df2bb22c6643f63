// Everything that DiffuLex Edge offers to C++ programs.
#pragma once

#include "diffulex_edge/activations.h"            // IWYU pragma: export
#include "diffulex_edge/backend.h"                // IWYU pragma: export
#include "diffulex_edge/backend_description.h"    // IWYU pragma: export
#include "diffulex_edge/calibration.h"            // IWYU pragma: export
#include "diffulex_edge/chat_template.h"          // IWYU pragma: export
#include "diffulex_edge/checkpoint.h"             // IWYU pragma: export
#include "diffulex_edge/coreml_backend.h"         // IWYU pragma: export
#include "diffulex_edge/dtype.h"                  // IWYU pragma: export
#include "diffulex_edge/error.h"                  // IWYU pragma: export
#include "diffulex_edge/evaluation.h"             // IWYU pragma: export
#include "diffulex_edge/export_session.h"         // IWYU pragma: export
#include "diffulex_edge/generation.h"             // IWYU pragma: export
#include "diffulex_edge/generation_evaluation.h"  // IWYU pragma: export
#include "diffulex_edge/graph.h"                  // IWYU pragma: export
#include "diffulex_edge/inspection.h"             // IWYU pragma: export
#include "diffulex_edge/mixed_precision.h"        // IWYU pragma: export
#include "diffulex_edge/model.h"                  // IWYU pragma: export
#include "diffulex_edge/model_hash.h"             // IWYU pragma: export
#include "diffulex_edge/progress.h"               // IWYU pragma: export
#include "diffulex_edge/qnn_backend.h"            // IWYU pragma: export
#include "diffulex_edge/quantization.h"           // IWYU pragma: export
#include "diffulex_edge/quantization_session.h"   // IWYU pragma: export
#include "diffulex_edge/report.h"                 // IWYU pragma: export
#include "diffulex_edge/runtime.h"                // IWYU pragma: export
#include "diffulex_edge/sensitivity.h"            // IWYU pragma: export
#include "diffulex_edge/tokenizer.h"              // IWYU pragma: export
#include "diffulex_edge/version.h"                // IWYU pragma: export
#include "diffulex_edge/weight_format.h"          // IWYU pragma: export
#include "diffulex_edge/xnnpack_backend.h"        // IWYU pragma: export
