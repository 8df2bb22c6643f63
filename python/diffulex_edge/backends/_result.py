"""What an export gives."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffulex_edge import _core
from diffulex_edge._errors import Error, InvalidArgumentError, OutputError
from diffulex_edge._pictures import table


@dataclass
class ExportResult:
    """An artefact, or why there is none.

    `metadata` has the keys of the C++ library's `ExportMetadata`, those of `diffulex-edge export --json`: backend,
    seq_len, parameters, original_memory_mb and quantized_memory_mb (MB, 10^6 bytes, of the weights in FP32 and as
    stored), file_bytes, warnings, layers, and more; and `inputs`, `output`, `torch_export_seconds`.
    """

    success: bool
    #: The artefact's bytes, mapped from its file, without a copy; None for artefacts that are folders, and failures.
    buffer: memoryview | None = None
    #: One line; None on success.
    error_message: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    #: Where the artefact is, if `export` was given a path.
    path: Path | None = None
    #: What `error_message` is the text of.
    error: Error | None = None
    _folder: _core.Workspace | None = field(default=None, repr=False)
    _artefact: Path | None = field(default=None, repr=False)

    def save(self, path: str | Path) -> Path:
        """Copies the artefact to `path`, which appears when it is complete, and returns it.

        Errors: the export's own where it failed; `OutputError` where the file can't be written, or a folder is in the
        way; `InvalidArgumentError` for the artefact's own place.
        """
        if self.error is not None:
            raise self.error
        source = self._artefact
        if source is None or not source.exists():
            raise OutputError("the artefact is gone: it was written elsewhere, or never (a dry run)")
        target = Path(path)
        if target.exists() and target.samefile(source):
            raise InvalidArgumentError(f"{target}: is the artefact itself", where=str(target))
        _core.copy_artefact(str(source), str(target))
        return target

    def _repr_html_(self) -> str:
        if not self.success:
            return f"<p><b>Export failed</b>: {html.escape(self.error_message or '')}</p>"
        facts = self.metadata
        rows = {
            "Backend": facts["backend"],
            "Length": f"{facts['seq_len']} tokens" if facts.get("has_sequence") else "fixed shapes",
            "Parameters": f"{facts['parameters']:,}",
            "Weights": f"{facts['quantized_memory_mb']:.2f} MB, in FP32 {facts['original_memory_mb']:.2f} MB "
            f"({facts['compression_ratio']:.2f}x smaller)",
            "Artefact": f"{facts['file_bytes']:,} bytes",
            "Time": f"{facts['seconds']:.3f} s, and {facts.get('torch_export_seconds', 0.0):.2f} s of torch.export",
        }
        notes = "".join(f"<li>{html.escape(warning)}</li>" for warning in facts["warnings"])
        return table({name: html.escape(value) for name, value in rows.items()}) + (
            f"<ul>{notes}</ul>" if notes else ""
        )
