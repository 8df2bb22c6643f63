"""Writes the logits of a checkpoint's FP32 forward in PyTorch on the benchmark's input, to compare every .pte with."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from latency import input_ids
from official_route import load_decoder, read_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder with config.json and safetensors files")
    parser.add_argument("-o", "--output", type=Path, required=True, help="float32 [1, seq_len, vocab], .npy")
    parser.add_argument("--seq-len", type=int, default=128)
    options = parser.parse_args()
    ids = torch.from_numpy(input_ids(read_config(options.model).vocab, options.seq_len))
    with torch.no_grad():
        logits = load_decoder(options.model, options.seq_len)(ids)
    np.save(options.output, logits.numpy())


if __name__ == "__main__":
    main()
