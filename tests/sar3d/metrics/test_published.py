"""The paper's table: the documents say what the data say, and every other system of it can be imported."""

from pathlib import Path

from sar3d.compare import SYSTEMS
from sar3d.metrics.published import TABLE, UNITS, markdown

DOCUMENTS = Path(__file__).parents[3] / "docs"


def test_the_documents_show_the_data() -> None:
    text = (DOCUMENTS / "metrics.md").read_text()
    assert markdown() in text
    assert "not reproducible to the digit: network, resize and subset were never" in " ".join(text.split())


def test_every_row_is_whole_and_has_an_importer() -> None:
    assert len(TABLE) == 10
    for row in TABLE:
        assert set(row.values) | set(row.disputed) == set(UNITS)
        assert not set(row.values) & set(row.disputed)
        assert row.system in SYSTEMS or row.system.startswith("sar3d-")


def test_the_documents_name_every_importer() -> None:
    text = (DOCUMENTS / "compare.md").read_text()
    table = text.partition("<!-- systems -->")[2].partition("<!-- end -->")[0]
    for system in SYSTEMS.values():
        assert f"| `{system.name}` |" in table
