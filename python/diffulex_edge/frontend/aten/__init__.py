"""ATen operators, as `torch.export` leaves them, in the library's graph: one function for each, by topic.

A new topic is a file of its own, imported here for its handlers.
"""

from diffulex_edge.frontend.aten import (  # noqa: F401
    activations,
    arithmetic,
    attention,
    choices,
    complex_numbers,
    convolutions,
    einsum,
    layers,
    masks,
    norms,
    parts,
    reductions,
    shapes,
    writes,
)
from diffulex_edge.frontend.aten.layers import register_quantized
from diffulex_edge.frontend.aten.translation import Translation

__all__ = ["Translation", "register_quantized"]
