"""Putting the ranks' pieces of a tensor together, straight from their files into the one that is written."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from neuron_ops.weights.byte_ranges import STREAM_BYTES, OpenFile
from neuron_ops.weights.neuron_layout import Assembly
from neuron_ops.weights.safetensors_io import SafetensorsWriter


class PieceWriter(ExitStack):
    """Writes assemblies, keeping each rank's file open."""

    def __init__(self) -> None:
        super().__init__()
        self._files: dict[Path, OpenFile] = {}

    def write(self, assembly: Assembly, writer: SafetensorsWriter) -> None:
        if assembly.axis == 1:
            self._write_columns(assembly, writer)
            return
        for piece in assembly.pieces:
            tensor = piece.tensor
            rows = piece.stop - piece.start
            if tensor.contiguous:
                offset = tensor.offset + piece.start * tensor.row_bytes
                writer.copy(self._file(tensor.path), offset, rows * tensor.row_bytes)
            else:
                data = tensor.read(self._file(tensor.path), piece.start, piece.stop)
                writer.write(data.data.cast("B"))

    def _write_columns(self, assembly: Assembly, writer: SafetensorsWriter) -> None:
        """Gather the ranks' columns, a block of rows at a time."""
        rows, columns = assembly.shape
        step = max(1, STREAM_BYTES // (columns * np.dtype(_word(assembly)).itemsize))
        block = np.empty((min(step, rows), columns), _word(assembly))
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            filled = 0
            last = None
            for piece in assembly.pieces:
                if piece.tensor is not last:
                    data = piece.tensor.read(self._file(piece.tensor.path), start, stop)
                    last = piece.tensor
                width = piece.stop - piece.start
                block[: stop - start, filled : filled + width] = data[:, piece.start : piece.stop]
                filled += width
            writer.write(block[: stop - start].data.cast("B"))

    def _file(self, path: Path) -> OpenFile:
        if path not in self._files:
            self._files[path] = self.enter_context(OpenFile(path))
        return self._files[path]


def _word(assembly: Assembly) -> np.dtype[Any]:
    return np.dtype(f"<u{assembly.pieces[0].tensor.word_bytes}")
