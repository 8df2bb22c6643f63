"""A trained model and texts for it: SmolLM2-135M-Instruct (smollm2_checkpoint.py) and Debian's packages of texts."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from texts import write_next_token_set, write_text

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class RealWeights:
    """A checkpoint, text for calibration, and a text that calibration does not see as data for `evaluate`."""

    checkpoint: Path
    calibration: Path
    data: Path


def prepare(
    work: Path, checkpoint: Path | None, text: str, calibration: str, sequences: int, length: int
) -> RealWeights:
    """Make in `work` what is not there yet.

    Args:
        work: where all files go.
        checkpoint: a Llama checkpoint instead of SmolLM2.
        text: the name, as in texts.TEXTS, of what is evaluated on, in `sequences` of `length` tokens.
        calibration: the name of the text for calibration.

    Raises:
        MissingTextError: a text's Debian package is not installed.
        subprocess.CalledProcessError: the checkpoint can't be made; the reason is on stderr.
    """
    work.mkdir(parents=True, exist_ok=True)
    if checkpoint is None:
        checkpoint = work / "smollm2"
        if not checkpoint.exists():
            print(f"[bench] making {checkpoint}", file=sys.stderr, flush=True)
            subprocess.run([sys.executable, str(HERE / "smollm2_checkpoint.py"), str(checkpoint)], check=True)
    for name in {text, calibration}:
        write_text(name, work / f"{name}.txt")
    data = work / f"{text}.safetensors"
    write_next_token_set(work / f"{text}.txt", checkpoint / "tokenizer.json", data, sequences, length)
    return RealWeights(checkpoint, work / f"{calibration}.txt", data)
