"""Time and memory of quantizing a torch module, beside torchao on a copy of it.

Twelve linear layers of 4096 x 4096 in float32, 768 MiB. Each way runs in a process of its own. Memory is the process's
resident set, polled every 10 ms, less what it was before. Needs torch, torchao and the package itself:

    python benchmarks/modules.py
"""

from __future__ import annotations

import copy
import subprocess
import sys
import threading
import time
from collections.abc import Callable

WAYS = ("int8", "int4", "fp16", "torchao-int8", "torchao-int4")


def resident_mib() -> float:
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def preparation(way: str) -> Callable[[object], object]:
    """What quantizes a model; imports are done here, so that they are not measured."""
    if way.startswith("torchao"):
        import torch
        from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup, quantize_

        is_int8 = way.endswith("int8")
        config = Int8WeightOnlyConfig(version=2) if is_int8 else IntxWeightOnlyConfig(torch.int4, PerGroup(32))

        def run(model: object) -> object:
            model = copy.deepcopy(model)
            quantize_(model, config)
            return model

        return run
    from diffulex_edge.quant import QuantizationConfig, quantize_model

    config = QuantizationConfig(dtype=way, exclude_layers=[])
    return lambda model: quantize_model(model, config).model


def measure(way: str) -> None:
    import torch
    from torch import nn

    run = preparation(way)
    weight = torch.randn(4096, 4096) * 0.02
    model = nn.Sequential(*(nn.utils.skip_init(nn.Linear, 4096, 4096, bias=False) for _ in range(12)))
    with torch.no_grad():
        for number, layer in enumerate(model):
            layer.weight.copy_(weight.roll(number, 0))
    run(nn.Sequential(nn.Linear(64, 64)))
    before = resident_mib()
    peak = before
    is_done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_done.wait(0.01):
            peak = max(peak, resident_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    wall, cpu = time.monotonic(), time.process_time()
    quantized = run(model)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    is_done.set()
    watcher.join()
    after = resident_mib()
    print(
        f"{way:14} {wall:6.2f} s, {cpu:6.2f} s of CPU, peak {max(peak, after) - before:5.0f} MiB, "
        f"after {after - before:5.0f} MiB ({type(quantized).__name__} of {len(model)} layers)"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1])
    else:
        for each in WAYS:
            subprocess.run([sys.executable, __file__, each], check=True)
