"""The report: pages that open offline, made from the rows in results folders and from nothing else.

One folder: `report.html` beside its rows, with a page each for the settings, the machine, what may be trusted and all
points. Several: a folder of their own, whose `report.html` compares them, with the pages of each. `plotly.min.js` lies
beside the pages once. Pages are named by place, never by what a study calls itself, and each is written whole or not at
all.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from explorer.files import write_atomically
from explorer.report.page import GENERATOR, SCRIPT, footer, page, sections
from explorer.report.points import points_csv, points_table
from explorer.storage.folder import STUDY
from explorer.study.objective import OBJECTIVES
from explorer.summary import Summary, summarise_frames
from explorer.text.tables import align, at_most, result_table, signed, verdict
from explorer.views import index
from explorer.views.study_data import StudyData, named, read
from explorer.views.view import drawn

PAGE = "report.html"
_TITLES = {"answer": "Answer", "settings": "Settings", "machine": "Machine", "trust": "Trust"}
_POINTS = "points"


def write_report(folder: Path) -> Path:
    """Write the report of a results folder into it and return the first page's path; ValueError without results."""
    return _write(folder, study_pages(read(folder)))


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write the report of several results folders into `out`, made where it is missing; return the first page's path.

    Raises ValueError where a folder has no results, and where `out` holds anything but an earlier comparison.
    """
    _check_place(out)
    studies = [read(folder, name) for folder, name in zip(folders, named(folders), strict=True)]
    found = {PAGE: comparison_page(studies)}
    for place, study in enumerate(studies, start=1):
        found |= study_pages(study, f"{place}-", {"Comparison": PAGE})
    out.mkdir(parents=True, exist_ok=True)
    return _write(out, found)


def _check_place(out: Path) -> None:
    """Raise ValueError unless a comparison can be written into `out` and nothing there is lost."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"--out: {out}: is a file; allowed: a folder")
    if (out / STUDY).exists():
        raise ValueError(f"--out: {out}: is a results folder; choose another one")
    others = sorted(path.name for path in out.iterdir() if path.name[0] != ".")
    if others and not _is_ours(out / PAGE):
        raise ValueError(f"--out: {out}: not empty and no comparison (it has {others[0]}); choose another folder")


def _is_ours(page: Path) -> bool:
    if not page.is_file():
        return False
    with page.open("rb") as file:
        return GENERATOR.encode() in file.read(1024)


def _write(folder: Path, pages: Mapping[str, str]) -> Path:
    from plotly.offline import get_plotlyjs

    for name, text in pages.items():  # the first page first, so that from now on the folder is known for what it is
        write_atomically(folder / name, text.encode())
    write_atomically(folder / SCRIPT, get_plotlyjs().encode())
    return folder / PAGE


def study_pages(study: StudyData, before: str = "", above: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the pages of a study by file name, which begin with `before`; `above` are links to other pages."""
    files = {part: f"{before}report{'' if part == 'answer' else f'-{part}'}.html" for part in (*_TITLES, _POINTS)}
    links = {**(above or {}), **{_TITLES.get(part, "Points"): file for part, file in files.items()}}
    summary = summarise_frames(study.identity, study.space, study.rows)
    bodies = {part: sections(drawn(views, study)) for part, views in index.STUDY.items()}
    bodies["answer"] = [*_head(summary), *bodies["answer"]]
    bodies["trust"].append(_invalid(summary.invalid))
    bodies[_POINTS] = [
        f'<p><a href="{before}report-points.csv">All points with all their numbers</a>, as CSV.</p>',
        points_table(study.rows, study.identity.settings, [OBJECTIVES[name] for name in study.objectives]),
    ]
    end = footer([study.identity])
    pages = {files[part]: page(_title(study, part), [*body, end], links) for part, body in bodies.items()}
    return pages | {f"{before}report-points.csv": points_csv(study.rows)}


def _title(study: StudyData, part: str) -> str:
    return study.name if part == "answer" else f"{study.name}: {_TITLES.get(part, 'Points').lower()}"


def _head(summary: Summary) -> list[str]:
    answer = f"{html.escape(result_table(summary))}\n{html.escape(verdict(summary))}"
    return [f"<p>{html.escape(summary.identity.title)}</p>", f"<pre>{answer}</pre>"]


def _invalid(reasons: Counter[str]) -> str:
    if not reasons:
        return ""
    lines = (f"<li>{count} times: {html.escape(reason)}</li>" for reason, count in reasons.most_common(10))
    return f"<p>{reasons.total()} points cannot run or break a constraint:</p><ul>{''.join(lines)}</ul>"


def comparison_page(studies: Sequence[StudyData]) -> str:
    """Return the page that sets several studies beside each other."""
    links = {study.name: f"{place}-report.html" for place, study in enumerate(studies, start=1)}
    body = [f"<pre>{html.escape(comparison_table(studies))}</pre>", *sections(drawn(index.STUDIES, studies))]
    return page(f"{len(studies)} studies", [*body, footer([study.identity for study in studies])], links)


def comparison_table(studies: Sequence[StudyData]) -> str:
    """Return a line per study: what it found of its first objective, with the difference from the first study."""
    first = studies[0]
    rows: list[Sequence[str]] = [
        ("", "objective", "baseline", "best found", "bound", "within", "against the first", "")
    ]
    for study in studies:
        objective, certificate = study.objective, study.certificate
        difference = ""
        if study is not first and objective is first.objective and first.certificate.best:
            difference = signed(certificate.best / first.certificate.best - 1)
        values = (study.baseline[objective.metric], study.best[objective.metric])
        shown = [objective.shown(float(value)) for value in values]
        proven = (objective.at_least(certificate.bound), at_most(certificate.gap))
        rows.append((study.name, objective.noun, *shown, *proven, difference, study.identity.title))
    return align(rows)
