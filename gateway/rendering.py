"""Renderables of our own for rich: a line that fits, and text that cannot act."""

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

from gateway.wording import printable


class Row:
    """One line: a mark, a text cut to what fits, and figures at its right.

    The figures are left out where they would take more than half of the line.
    """

    def __init__(
        self,
        mark: str,
        said: str,
        figures: str = "",
        style: str = "",
        mark_style: str = "",
    ) -> None:
        self._mark = Text(mark, mark_style or style)
        self._said, self._figures = Text(said, style), Text(figures, "dim")

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        """Lay it out in the width there is."""
        del console
        mark, width = self._mark, options.max_width
        figures = self._figures if self._figures.cell_len <= width // 2 else Text()
        gap = 2 if figures else 0
        room = max(1, width - mark.cell_len - figures.cell_len - gap)
        said = self._said.copy()
        said.truncate(room, overflow="crop" if options.ascii_only else "ellipsis")
        fill = " " * max(0, room + gap - said.cell_len) if figures else ""
        yield Text.assemble(mark, said, fill, figures, no_wrap=True, overflow="crop")


class Harmless:
    """What a renderable makes of its input, with all that acts taken out again.

    Markdown may spell a control character as an entity.
    """

    def __init__(self, inner: RenderableType) -> None:
        self._inner = inner

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        """Render it, and keep only what is printable."""
        for text, style, control in console.render(self._inner, options):
            if control is None:
                yield Segment(printable(text), style)
