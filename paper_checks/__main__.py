"""`python -m paper_checks`: the table of all claims, with what was found."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from linvae.cli import Parser, add_output_arguments, exit_codes, print_json
from paper_checks import PAPERS
from paper_checks.checks import CORRECTED, FAILS, HOLDS, NOT_CHECKABLE, VERDICTS, Check, Paper

EXAMPLES = """\
examples:
  python -m paper_checks
  python -m paper_checks --only lucas2019 --json
"""
STYLES = {HOLDS: "green", CORRECTED: "yellow", FAILS: "red", NOT_CHECKABLE: "dim"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks; 0 = ran, whatever the verdicts, 2 = usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with exit_codes(arguments) as status:
        args = parser().parse_args(arguments)
        papers = [PAPERS[name] for name in args.only or PAPERS]
        if args.json:
            print_json([dataclasses.asdict(check) for paper in papers for check in paper.run()])
        else:
            _show(papers, args.quiet)
    return status.code


def _show(papers: Iterable[Paper], quiet: bool) -> None:
    """A table per paper as it is done, and the summary; only that where quiet."""
    # a pipe or a file has no width of its own
    console = Console(width=None if sys.stdout.isatty() else 160)
    checks: list[Check] = []
    for paper in papers:
        found = list(paper.run())
        if not quiet:
            console.print(table(paper.title, found))
        checks += found
    console.print(summary(checks))


def table(title: str, checks: Iterable[Check]) -> Table:
    """One paper."""
    result = Table(title=title, title_justify="left", show_lines=True)
    result.add_column("claim", ratio=4)
    result.add_column("where", ratio=3)
    result.add_column("verdict", ratio=2)
    result.add_column("evidence", ratio=6)
    result.add_column("s", justify="right", no_wrap=True)
    for check in checks:
        where = check.where.removeprefix(f"{title}, ")
        row = check.claim, where, check.verdict, check.evidence, f"{check.seconds:.2f}"
        # the text holds brackets that are no markup
        result.add_row(*(cell.replace("[", r"\[") for cell in row), style=STYLES[check.verdict])
    return result


def summary(checks: Sequence[Check]) -> str:
    """One line: how many of each verdict, and the seconds."""
    counts = Counter(check.verdict for check in checks)
    parts = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS]
    seconds = sum(check.seconds for check in checks)
    return f"{len(checks)} claims in {seconds:.1f} s: {', '.join(parts)}"


def parser() -> Parser:
    """All options."""
    p = Parser(
        prog="python -m paper_checks",
        description="Check every claim of the papers and print the table. Claims about data sets "
        "need their files: set LINVAE_DATA.",
        examples=EXAMPLES,
    )
    p.add_argument(
        "--only", metavar="PAPER", action="append", choices=list(PAPERS),
        help=f"one paper, repeatable (default: all): {', '.join(PAPERS)}",
    )  # fmt: skip
    add_output_arguments(p, json="rows as JSON instead of tables", quiet="print the summary only")
    return p


if __name__ == "__main__":
    sys.exit(main())
