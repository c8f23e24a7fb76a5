"""Drawn samples of a dataset as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from panoptic_plugin.reports.dataset_samples import Sample, ShownSegment

STYLE = """
:root { color-scheme: light dark; --line: #8884; --faint: #767676; }
@media (prefers-color-scheme: dark) { :root { --faint: #a0a0a0; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1400px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
section { border-top: 1px solid var(--line); padding: 1.5rem 0; }
.pair { display: grid; grid-template-columns: 1fr 2fr; gap: .75rem; align-items: start; }
@media (max-width: 50rem) { .pair { grid-template-columns: 1fr; } }
figure { margin: 0; } img { width: 100%; height: auto; display: block; border-radius: 4px; }
.faint, figcaption { color: var(--faint); font-size: .875rem; }
.warn { border-left: 4px solid #d33; padding-left: .75rem; }
.chip { display: inline-block; width: .9em; height: .9em; border-radius: 3px; margin-right: .4em; vertical-align: -.1em;
  border: 1px solid var(--line); }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem 1rem .15rem 0; text-align: left; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; }
details { margin-top: .75rem; } summary { cursor: pointer; }
""".strip()


def html_page(title: str, samples: Sequence[Sample]) -> str:
    """The whole page: per sample the image, its segments and their list."""
    segments = [segment for sample in samples for segment in sample.segments]
    count = Counter(segment.name for segment in segments)
    classes = ", ".join(f"{escape(name)} ({number})" for name, number in count.most_common())
    sections = "\n".join(_section(sample) for sample in samples)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n"
        f'<p>{len(samples)} images, {len(segments)} segments. <span class="faint">Segments by class: {classes}.</span>'
        f"</p>\n{sections}\n</main>\n</body>\n</html>\n"
    )


def _section(sample: Sample) -> str:
    height, width = sample.image.shape[:2]
    names = Counter(segment.name for segment in sample.segments)
    content = ", ".join(f"{number} {name}" for name, number in names.most_common()) or "no segments"
    alternative = f"Segmentation of {sample.file_name}: {content}"
    return (
        f"<section>\n<h2>{escape(sample.file_name)}</h2>\n"
        f'<p class="faint">image id {escape(str(sample.image_id))}, {width}&times;{height} pixels, '
        f"{len(sample.segments)} segments, {sample.void:.1%} void</p>\n{_warnings(sample)}"
        f'<div class="pair">\n{_figure(sample.image, f"Image {sample.file_name}", "Image")}\n'
        f"{_figure(sample.picture, alternative, 'Segments: class and id')}\n</div>\n"
        f"<details>\n<summary>All segments</summary>\n{_table(sample.segments)}\n</details>\n</section>"
    )


def _warnings(sample: Sample) -> str:
    found = (
        (sample.missing, "in the JSON without a pixel in the PNG"),
        (sample.unnamed, "in the PNG that the JSON does not name (drawn as void)"),
    )
    return "".join(
        f'<p class="warn">{len(ids)} ids {what}: {", ".join(map(str, ids[:8]))}{", …" if len(ids) > 8 else ""}</p>\n'
        for ids, what in found
        if ids
    )


def _figure(pixels: np.ndarray, alternative: str, caption: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=88)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" alt="{escape(alternative)}" width="{pixels.shape[1]}" '
        f'height="{pixels.shape[0]}" loading="lazy"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _table(segments: Sequence[ShownSegment]) -> str:
    rows = "\n".join(
        f'<tr><td><span class="chip" style="background:rgb{segment.color}"></span>{escape(segment.name)}</td>'
        f'<td class="number">{segment.id}</td><td class="number">{segment.area:,}</td><td>{_kind(segment)}</td></tr>'
        for segment in sorted(segments, key=lambda segment: -segment.area)
    )
    head = '<tr><th>Class</th><th class="number">Id</th><th class="number">Pixels</th><th>Kind</th></tr>'
    return f"<table>\n<thead>{head}</thead>\n<tbody>\n{rows}\n</tbody>\n</table>"


def _kind(segment: ShownSegment) -> str:
    return ("thing" if segment.is_thing else "stuff") + (", crowd" if segment.is_crowd else "")
