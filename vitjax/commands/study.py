"""`vitjax study`: measure what textbooks say about Transformers."""

import argparse
import difflib
import json
from collections.abc import Sequence

EXAMPLE = """examples:
  vitjax study scaling
  vitjax study --all --html docs/studies
Without a name it lists the studies.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the studies asked for; print claim, measurement and verdict of each."""
    parser = argparse.ArgumentParser(
        prog="vitjax study",
        description="Measure textbook claims about Transformers, each with a small experiment.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="studies to run")
    parser.add_argument("--all", action="store_true", help="run them all")
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="repetitions, 3 or more (default 3)"
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--long", action="store_const", dest="size", const="long", help="larger, for more time")
    size.add_argument("--reduced", action="store_const", dest="size", const="reduced", help="seconds only")
    parser.add_argument("--json", action="store_true", help="print one JSON object a study")
    parser.add_argument("--output", metavar="DIR", help="write NAME.json and NAME.png there")
    parser.add_argument("--html", metavar="DIR", help="write pages there, with an index")
    options = parser.parse_args(arguments)

    from vitjax.studies import STUDIES
    from vitjax.studies.lab.pages import write_index, write_page
    from vitjax.studies.lab.report import in_words, measure, record, write

    known = {study.name: study for study in STUDIES}
    for name in options.names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"no study is called {name!r}: {hint}")
    chosen = STUDIES if options.all else [known[name] for name in options.names]
    if not chosen:
        print("\n".join(f"{study.name}: {study.claim}" for study in STUDIES))
    for place, study in enumerate(chosen):
        report = measure(study, options.seeds, options.size or "full")
        found = record(report)
        for directory in {options.output, options.html} - {None}:
            found = write(report, directory)
        if options.html:
            write_page(found, study, options.html)
            write_index(options.html, STUDIES)
        print(json.dumps(found) if options.json else "\n" * (place > 0) + in_words(found), flush=True)
    return 0
