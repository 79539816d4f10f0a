"""A terminal that understands what a redrawn table needs: a cursor, and lines that are erased."""

import io
import re


class Terminal(io.StringIO):
    """Takes the place of stderr; what a person would see of it is ``screen``.

    Args:
        is_one: What it answers to whether it is a terminal.
    """

    def __init__(self, is_one: bool = True) -> None:
        super().__init__()
        self._is_one = is_one

    def isatty(self) -> bool:
        return self._is_one

    @property
    def screen(self) -> list[str]:
        """The lines, with the trailing spaces of no line, and no empty line at the end."""
        lines, row, column = [""], 0, 0
        for part in re.findall(r"\x1b\[\d*[A-Z]|[\r\n]|[^\x1b\r\n]+", self.getvalue()):
            if part == "\r":
                column = 0
            elif part == "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            elif part in ("\x1b[K", "\x1b[J"):
                lines[row] = lines[row][:column]
                del lines[row + 1 if part == "\x1b[J" else len(lines) :]
            elif part.startswith("\x1b"):
                assert part.endswith("A")
                row -= int(part[2:-1])
                assert row >= 0
            else:
                lines[row] = (
                    lines[row].ljust(column)[:column] + part + lines[row][column + len(part) :]
                )
                column += len(part)
        while lines and not lines[-1].strip():
            lines.pop()
        return [line.rstrip() for line in lines]
