#!/usr/bin/env python3
"""Prints the SHA-256 of every file that a command exports: small models of four families, every format and backend.

    scripts/hash_artefacts.py --command build/release/bin/diffulex-edge > after.txt

Run it before and after a change that should not touch artefacts, and compare the two. Needs requirements/test.txt.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
FAMILIES = ("llada", "dream", "sdar", "fast_dllm_v2")

# Options that every backend takes, by the name of the format.
FORMATS = {
    "fp32": "--dtype fp32",
    "fp16": "--dtype fp16",
    "int8": "--dtype int8",
    "int8-dynamic": "--dtype int8 --mode dynamic",
    "int8-static": "--dtype int8 --mode static --calibration IDS --mask-token-id 1000",
    "int4-g32": "--dtype int4 --group-size 32",
    "int4-channel": "--dtype int4 --group-size 0",
    "int4-all": "--dtype int4 --group-size 32 --embedding-dtype int8 --head-dtype int4",
    "int8-gptq": "--dtype int8 --method gptq --calibration IDS --mask-token-id 1000",
    "int4-auto": "--dtype int4 --method auto --calibration IDS --mask-token-id 1000",
}
BACKENDS = {
    "xnnpack": {"": "", "fp16-activations": "--activation-dtype fp16"},
    "coreml": {
        "ios18": "--minimum-deployment-target iOS18",
        "ios16": "--minimum-deployment-target iOS16",
        "pte": "--minimum-deployment-target iOS18 --container pte",
    },
    "qnn": {"": ""},
}


def files_of(path: Path) -> list[Path]:
    """The file, or all files of the folder in order."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def digest(path: Path) -> str:
    """One SHA-256 over the names and contents of an artefact's files."""
    total = hashlib.sha256()
    for file in files_of(path):
        total.update(str(file.relative_to(path)).encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def main() -> None:
    """Exports every combination; one that the command refuses prints its exit code instead."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", type=Path, default=ROOT / "build/release/bin/diffulex-edge")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests/integration"))
    from families import make_checkpoint

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ids = folder / "ids.npy"
        np.save(ids, np.random.default_rng(0).integers(0, 1000, (8, 40)))
        for family in FAMILIES:
            model = make_checkpoint(folder / family, family)
            combinations = itertools.product(BACKENDS.items(), FORMATS.items())
            for (backend, variants), (name, words) in combinations:
                for variant, more in variants.items():
                    suffix = {"xnnpack": ".pte", "coreml": ".pte" if variant == "pte" else ".mlpackage", "qnn": ""}
                    target = folder / f"artefact{suffix[backend]}"
                    arguments = f"{words} {more} --backend {backend} --seq-len 64 --threads 2 --quiet".split()
                    arguments = [str(ids) if word == "IDS" else word for word in arguments]
                    command = [options.command.resolve(), "export", model, "-o", target, *arguments]
                    result = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
                    label = " ".join(filter(None, (family, backend, variant, name)))
                    if result.returncode == 0:
                        print(label, digest(target), flush=True)
                    else:
                        print(label, "refused with exit code", result.returncode, flush=True)
                    subprocess.run(["rm", "-rf", target], check=True)


if __name__ == "__main__":
    main()
