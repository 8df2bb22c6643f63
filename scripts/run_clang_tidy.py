#!/usr/bin/env python3
"""Runs clang-tidy over the files of src/ on all cores; skips files that passed unchanged before.

A file's verdict is remembered under the hash of its preprocessed text, of .clang-tidy and of the tool's version, so
that a second run costs seconds. In CI, which makes one run only, nothing is remembered.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def preprocessed_hash(entry: dict, salt: bytes) -> str:
    """SHA-256 of what the compiler sees, with the settings that the verdict depends on."""
    command = [word for word in shlex.split(entry["command"]) if "ccache" not in word]
    output = command.index("-o")
    del command[output : output + 2]
    command.remove("-c")
    result = subprocess.run([*command, "-E"], cwd=entry["directory"], capture_output=True, check=True)
    return hashlib.sha256(salt + result.stdout).hexdigest()


def without_precompiled_header(entry: dict) -> dict:
    """The command where a file reads nothing but what it includes itself."""
    return entry | {"command": re.sub(r" -include \S+/cmake_pch\.hxx\b", "", entry["command"])}


def files_apart(entry: dict) -> list[dict]:
    """An entry for each of the files that a unity build compiles as one (cmake/CompilerSettings.cmake)."""
    unity = Path(entry["directory"], entry["file"])
    if unity.parent.name != "Unity":
        return [entry]
    apart = []
    for include in re.findall(r'^#include "([^"]+)"$', unity.read_text(), re.MULTILINE):
        file = str(ROOT / include)  # an absolute path stays one
        command = entry["command"].replace(entry["file"], file)
        apart.append(entry | {"file": file, "command": command})
    return apart


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clang-tidy", required=True, type=Path)
    parser.add_argument("--build", required=True, type=Path, help="folder with compile_commands.json")
    arguments = parser.parse_args()
    cache = arguments.build / "clang-tidy-passed"
    cache.mkdir(exist_ok=True)
    tidy = str(arguments.clang_tidy.resolve())
    version = subprocess.run([tidy, "--version"], capture_output=True, check=True).stdout
    salt = version + (ROOT / ".clang-tidy").read_bytes()
    commands = json.loads((arguments.build / "compile_commands.json").read_text())
    apart = [without_precompiled_header(one) for entry in commands for one in files_apart(entry)]
    entries = [one for one in apart if Path(one["file"]).is_relative_to(ROOT / "src")]
    (cache / "compile_commands.json").write_text(json.dumps(entries))

    remembers = "CI" not in os.environ

    def check(entry: dict) -> tuple[str, str]:
        stamp = cache / preprocessed_hash(entry, salt) if remembers else None
        if stamp and stamp.exists():
            return entry["file"], ""
        result = subprocess.run(
            [tidy, "--quiet", "--extra-arg=-Wno-unknown-warning-option", "-p", str(cache), entry["file"]],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode == 0:
            if stamp:
                stamp.touch()
            return entry["file"], ""
        return entry["file"], result.stdout + result.stderr

    failed = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for file, output in pool.map(check, entries):
            if output:
                failed += 1
                print(f"--- {file}\n{output}", flush=True)
    print(f"clang-tidy: {len(entries)} files, {failed} with findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
