"""Text from records in Markdown: it ends no cell and begins no HTML."""

from benchmarks.outputs import markdown
from benchmarks.outputs.table import Table


def test_a_cell_is_escaped_once() -> None:
    cells = ["q(z|x)", "q(z\\|x)", "<script>", "β < 1", "</td>"]
    shown = markdown.lines(Table(columns=["a"] * 5, rows=[cells])).splitlines()[-1]
    assert shown == "| q(z\\|x) | q(z\\|x) | &lt;script> | β < 1 | &lt;/td> |"
