#!/usr/bin/env python3
"""Runs the fuzzers of the readers for some time, and prints what each has seen. Ends with exit code 1 on a finding: an
exception that is no answer to bad input, a report of a sanitizer, a leak, an input that takes too long or too much
memory. Its input is kept, and the command that repeats it is printed.

What a fuzzer learns stays in BUILD/corpus, and the next run goes on from there.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FUZZ: Final = Path(__file__).resolve().parent
MAX_BYTES: Final = {"program": 40_000, "coreml_package": 40_000, "onnx": 24_000, "quantized_checkpoint": 16_000,
                    "gguf": 12_000, "plan": 8_000}  # fmt: skip
"""Of inputs: what the largest seeds have. 4,000 for the others."""
SECONDS_OF_ONE: Final = 30
"""A template that uses up its steps takes 7 of them, on a core of its own."""
MEMORY_MB: Final = 2048
ALLOCATION_MB: Final = 256
SANITIZER: Final = "malloc_context_size=4:quarantine_size_mb=32:detect_stack_use_after_return=0"
"""A third faster than by default; the unit tests look for what this does not, in the corpus too."""


@dataclass(frozen=True)
class Result:
    reader: str
    inputs: int
    edges: int
    finding: Path | None
    log: Path

    @property
    def failed(self) -> bool:
        return self.finding is not None


def run(reader: str, build: Path, limits: list[str]) -> Result:
    corpus, findings = build / "corpus" / reader, build / "findings"
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(exist_ok=True)
    log = build / f"{reader}.log"
    dictionary = FUZZ / "dictionaries" / f"{reader}.dict"
    before = set(findings.iterdir())
    options = [
        *limits,
        f"-max_len={MAX_BYTES.get(reader, 4_000)}",
        f"-timeout={SECONDS_OF_ONE}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-malloc_limit_mb={ALLOCATION_MB}",
        f"-artifact_prefix={findings}/{reader}-",
        "-print_final_stats=1",
        *([f"-dict={dictionary}"] if dictionary.exists() else []),
    ]
    with log.open("wb") as output:
        code = subprocess.run(
            [build / "bin" / f"fuzz_{reader}", *options, corpus, FUZZ / "corpus" / reader],
            stdout=output,
            stderr=output,
            env=os.environ | {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", SANITIZER)},
            check=False,
        ).returncode
    text = log.read_text(errors="replace")
    inputs = re.findall(r"stat::number_of_executed_units:\s+(\d+)", text) or re.findall(r"^#(\d+)\s", text, re.M)
    edges = re.findall(r"\bcov: (\d+)", text)
    new = sorted(set(findings.iterdir()) - before)
    finding = None if code == 0 else next((path for path in new if path.name.startswith(reader)), log)
    return Result(reader, int(inputs[-1]) if inputs else 0, int(edges[-1]) if edges else 0, finding, log)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True, type=Path, help="the build folder, with bin/fuzz_*")
    parser.add_argument("--seconds", type=int, default=60, help="for each fuzzer")
    parser.add_argument("--inputs", type=int, help="stop a fuzzer earlier, after so many")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="fuzzers at a time")
    parser.add_argument("readers", nargs="*", help="all unless given")
    arguments = parser.parse_args()
    build = arguments.build.resolve()
    readers = sorted(path.name.removeprefix("fuzz_") for path in (build / "bin").glob("fuzz_*"))
    if unknown := set(arguments.readers) - set(readers):
        parser.error(f"no fuzzer reads {', '.join(sorted(unknown))}; there are {', '.join(readers)}")
    limits = [f"-max_total_time={arguments.seconds}"]
    if arguments.inputs:
        limits.append(f"-runs={arguments.inputs}")
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(lambda reader: run(reader, build, limits), arguments.readers or readers))
    print(f"{'reader':<22}{'inputs':>12}{'edges':>8}  findings")
    for result in results:
        print(f"{result.reader:<22}{result.inputs:>12,}{result.edges:>8,}  {int(result.failed)}")
    for result in results:
        if result.failed:
            command = [build / "bin" / f"fuzz_{result.reader}", result.finding]
            print(f"\n{result.reader}: see {result.log}, and repeat it with\n  {' '.join(map(str, command))}")
    return 1 if any(result.failed for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
