#!/usr/bin/env python3
"""Damages a bundle's files again and again, and opens it each time as the C++ runner does (tests/tools/fuzz_bundle.cc).

fuzz_bundles.py --cases 100000 --seed 1
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from command import COMMAND, PATIENCE, SANITIZER_OPTIONS, tiny_sdar
from runner import bundle

KEPT = 300
"""Tokens: reading a large tokenizer takes most of a case's time."""


def shrink_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    model = document["model"]
    kept = {token: index for token, index in model["vocab"].items() if index < KEPT}
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    model["vocab"] = kept
    model["merges"] = [pair for pair in pairs if all(part in kept for part in (*pair, "".join(pair)))]
    path.write_text(json.dumps(document))
    said = json.loads((folder / "generation.json").read_text())
    said["model"]["tokenizer_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "generation.json").write_text(json.dumps(said))


def make_bundle(folder: Path) -> None:
    bundle(tiny_sdar(), folder, "--dtype", "int4", "--cache", 64)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content | upper }}{% endfor %}")
    shrink_tokenizer(folder)
    # Its bytes are only hashed: a small file does as well.
    (folder / "model.pte").write_bytes((folder / "model.pte").read_bytes()[:4096])
    said = json.loads((folder / "generation.json").read_text())
    content = (folder / "model.pte").read_bytes()
    said["artefact"] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "generation.json").write_text(json.dumps(said))


def fuzz(fuzzer: Path, place: Path, cases: int, seed: int) -> dict[str, int]:
    """How often a case ended how. AssertionError where one crashed, hung, or was an internal error."""
    make_bundle(place / "bundle")
    words = [str(fuzzer), str(place / "bundle"), str(place / "changed"), str(cases), str(seed)]
    patience = max(PATIENCE, cases // 50)
    environment = os.environ | SANITIZER_OPTIONS
    result = subprocess.run(words, capture_output=True, text=True, check=False, timeout=patience, env=environment)
    assert result.returncode == 0, f"exit code {result.returncode}\n{result.stdout}{result.stderr}"
    return {end: int(count) for end, count in (line.rsplit(" ", 1) for line in result.stdout.splitlines())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fuzzer", type=Path, default=COMMAND.with_name("fuzz_bundle"))
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        ends = fuzz(arguments.fuzzer, Path(place), arguments.cases, arguments.seed)
    print(", ".join(f"{count} x {end}" for end, count in ends.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
