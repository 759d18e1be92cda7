"""What an answer cites: Converse's citations -> those of Anthropic's Messages."""

from __future__ import annotations

from typing import Any

_DOCUMENT, _RESULT = ("documentIndex", "document_index"), ("searchResultIndex", "search_result_index")
# Converse's name of a place -> the native one, what it counts (in both spellings), where it starts and ends.
_PLACES = {
    "documentChar": ("char_location", _DOCUMENT, "start_char_index", "end_char_index"),
    "documentPage": ("page_location", _DOCUMENT, "start_page_number", "end_page_number"),
    "documentChunk": ("content_block_location", _DOCUMENT, "start_block_index", "end_block_index"),
    "searchResultLocation": ("search_result_location", _RESULT, "start_block_index", "end_block_index"),
}


def native(cited: dict[str, Any]) -> dict[str, Any]:
    """Write a citation as Anthropic has it; what Converse did not tell of it is null."""
    ((place, told),) = (cited.get("location") or {"web": {}}).items()
    text = "".join(part.get("text", "") for part in cited.get("sourceContent", []))
    title = cited.get("title")
    if place not in _PLACES:
        return {"type": "web_search_result_location", "cited_text": text, "url": told.get("url"), "title": title}
    kind, (count, index), start, end = _PLACES[place]
    about = {"document_title": title} if count == "documentIndex" else {"source": cited.get("source"), "title": title}
    where = {index: told.get(count), start: told.get("start"), end: told.get("end")}
    return {"type": kind, "cited_text": text, **about, **where}
