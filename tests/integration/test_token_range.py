"""A token id outside the vocabulary fails the execution with ExecuTorch's InvalidArgument, in every format."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from command import run_json

# Each look-up in a child of its own: how it ended, by the name of the file and the token.
LOOK_UP = """
import json, os, sys
import executorch.kernels.quantized
import torch
from executorch.runtime import Runtime

runtime = Runtime.get()
found = {}
for path in sys.argv[1:]:
    for token in (1023, 1024, -1):
        child = os.fork()
        if child == 0:
            try:
                runtime.load_program(path).load_method("forward").execute([torch.tensor([[1, 2, token]])])
            except RuntimeError as error:
                os._exit(18 if "0x12" in str(error) else 1)
            os._exit(0)
        found[f"{os.path.basename(path)} {token}"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(found))
"""


def test_a_token_outside_the_vocabulary_never_gives_logits(tiny: Path, tmp_path: Path) -> None:
    """ExecuTorch's own kernels of quantized embeddings abort (INT8) or read beside the table (INT4)."""
    paths = []
    for dtype in ("fp32", "fp16", "int8", "int4"):
        paths.append(str(tmp_path / dtype))
        run_json("export", tiny, "-o", paths[-1], "--dtype", "int4", "--embedding-dtype", dtype)
    command = [sys.executable, "-W", "ignore", "-c", LOOK_UP, *paths]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    for path in paths:
        assert [found[f"{Path(path).name} {token}"] for token in (1023, 1024, -1)] == [0, 18, 18]
