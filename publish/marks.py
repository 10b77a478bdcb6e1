"""Generated parts of Markdown pages: what stands between <!-- NAME --> and <!-- end of NAME -->."""

from pathlib import Path

from studies.results import write_whole
from tav.errors import InputError


def read_marked(page: str | Path, name: str) -> str:
    """What stands between the marks of this name; InputError if the page has none."""
    return _split(Path(page), name)[1]


def write_marked(page: str | Path, name: str, text: str) -> None:
    """Puts `text`, whole lines, between the marks of this name; InputError if the page has none."""
    page = Path(page)
    before, _, after = _split(page, name)
    write_whole(page, before + text + after)


def _split(page: Path, name: str) -> tuple[str, str, str]:
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, _, rest = page.read_text().partition(start)
    text, found, after = rest.partition(end)
    if not found:
        raise InputError(f"{page} has no lines {start.strip()} and {end} to write between")
    return before + start, text, end + after
