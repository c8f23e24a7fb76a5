"""Checks of ``categories``: ids, names, isthing, and whether each class occurs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from panoptic_plugin.data.validate.finding import Finding, make_finding


def check_categories(path: str, categories: Any) -> tuple[dict[int, dict[str, Any]], list[Finding]]:
    """The usable categories by id, and what is wrong with the list."""
    if not isinstance(categories, list) or not categories:
        what = "missing" if categories is None else f"a {type(categories).__name__} without entries"
        return {}, [make_finding("bad-category", path, found=f"'categories' is {what}", expected="a list of objects")]
    usable: dict[int, dict[str, Any]] = {}
    findings = []
    for index, category in enumerate(categories):
        problem = _problem(category, usable)
        if problem:
            findings.append(make_finding("bad-category", path, index=index, found=problem[0], expected=problem[1]))
            continue
        usable[category["id"]] = category
        if category.get("isthing") not in (0, 1):
            found = f"category {category['name']!r}: isthing {category.get('isthing')!r}"
            findings.append(make_finding("missing-isthing", path, index=index, found=found, expected="0 or 1"))
    return usable, findings


def _problem(category: Any, seen: Mapping[int, Mapping[str, Any]]) -> tuple[str, str] | None:
    """(found, expected), or None."""
    if not isinstance(category, dict):
        return f"a {type(category).__name__}", "an object with id, name and isthing"
    category_id = category.get("id")
    if isinstance(category_id, bool) or not isinstance(category_id, int) or category_id < 0:
        return f"id {category_id!r}", "an integer, 0 or more"
    if not isinstance(category.get("name"), str) or not category["name"]:
        return f"name {category.get('name')!r}", "a name"
    if category_id in seen:
        return f"id {category_id} of {category['name']!r} belongs to {seen[category_id]['name']!r}", "another id"
    return None


def check_seen(path: str, categories: Mapping[int, Mapping[str, Any]], seen: Iterable[int]) -> list[Finding]:
    """One warning that lists the classes without a segment."""
    unseen = sorted(set(categories) - set(seen))
    if not unseen:
        return []
    names = ", ".join(str(categories[id_]["name"]) for id_ in unseen)
    found = f"{len(unseen)} of {len(categories)} classes have no segment: {names}"
    return [make_finding("class-never-seen", path, found=found, expected="a segment of every class")]
