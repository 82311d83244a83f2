"""Putting the ranks' pieces of a tensor together, straight from their files into the one that is written."""

from contextlib import ExitStack
from pathlib import Path

from neuron_ops.weights.byte_ranges import STREAM_BYTES, OpenFile
from neuron_ops.weights.neuron_layout import Assembly
from neuron_ops.weights.safetensors_writer import SafetensorsWriter
from neuron_ops.weights.torch_zip import StoredTensor


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
                writer.write(memoryview(tensor.read(self._file(tensor.path), piece.start, piece.stop)))

    def _write_columns(self, assembly: Assembly, writer: SafetensorsWriter) -> None:
        """Gather the ranks' columns, a block of rows at a time."""
        rows, columns = assembly.shape
        row_bytes = columns * assembly.pieces[0].tensor.word_bytes
        step = max(1, STREAM_BYTES // row_bytes)
        block = memoryview(bytearray(min(step, rows) * row_bytes))
        places = _places(assembly, block, row_bytes)
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            for tensor, views in places.items():
                self._fill(tensor, start, stop, views[: (stop - start) * len(views) // min(step, rows)])
            writer.write(block[: (stop - start) * row_bytes])

    def _fill(self, tensor: StoredTensor, start: int, stop: int, views: list[memoryview]) -> None:
        file = self._file(tensor.path)
        if tensor.contiguous:
            file.scatter_into(views, tensor.offset + start * tensor.row_bytes)
            return
        data = memoryview(tensor.read(file, start, stop))
        for view in views:
            view[:], data = data[: len(view)], data[len(view) :]

    def _file(self, path: Path) -> OpenFile:
        if path not in self._files:
            self._files[path] = self.enter_context(OpenFile(path))
        return self._files[path]


def _places(assembly: Assembly, block: memoryview, row_bytes: int) -> dict[StoredTensor, list[memoryview]]:
    """Where in a block of the result the rows of each rank belong, in the order of the rank's bytes.

    The pieces of a rank cover its columns, each once, but may lie in another order in the result.
    """
    columns: dict[StoredTensor, list[tuple[int, int, int]]] = {}
    begin = 0
    for piece in assembly.pieces:
        end = begin + (piece.stop - piece.start) * piece.tensor.word_bytes
        columns.setdefault(piece.tensor, []).append((piece.start, begin, end))
        begin = end
    return {
        tensor: [block[row + begin : row + end] for row in range(0, len(block), row_bytes) for _, begin, end in parts]
        for tensor, parts in ((tensor, sorted(parts)) for tensor, parts in columns.items())
    }
