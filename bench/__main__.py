"""`python -m bench`: measure, then figures and a Markdown report from the CSV."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench import base, figures, records, report
from bench.cases import sets
from bench.measures import MEASURES
from bench.providers import PROVIDERS, QUICK
from bench.run import Plan, run


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny cases, a minute in all")
    parser.add_argument(
        "--sets", nargs="+", help="sets of cases: quick, middle, core, sweep, dtypes"
    )
    parser.add_argument(
        "--match", default="", metavar="TEXT", help="cases with this in their names"
    )
    parser.add_argument("--providers", nargs="+", choices=PROVIDERS, metavar="NAME")
    parser.add_argument("--measures", nargs="+", choices=MEASURES, metavar="NAME")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of the CPU, all cores by default")
    parser.add_argument("--seconds", type=float, help="for each provider, measure and case")
    parser.add_argument("--csv", type=Path, default=records.RESULTS)
    parser.add_argument("--only-measure", action="store_true", help="no figures and no report")
    parser.add_argument("--base", metavar="REV", help="compare with this revision of kanfast")
    return parser.parse_args(arguments)


def make_plan(options: argparse.Namespace) -> Plan:
    known = sets(options.device)
    names = options.sets or (["quick"] if options.quick else ["core", "sweep", "dtypes"])
    cases = dict.fromkeys(
        case for name in names for case in known[name] if options.match in str(case)
    )
    providers = options.providers or (QUICK if options.quick else PROVIDERS)
    seconds = options.seconds or (0.2 if options.quick else 3.0)
    return Plan(
        tuple(cases),
        [PROVIDERS[name] for name in providers],
        options.measures or list(MEASURES),
        options.device,
        seconds,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    os.environ.setdefault(
        "KINETO_LOG_LEVEL", "99"
    )  # torch's profiler writes its progress to stderr
    if options.base:
        return _compare(options.base, sys.argv[1:] if arguments is None else arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    done = records.read(options.csv)
    wrong = []
    for record in run(make_plan(options), lambda text: print(text, flush=True)):
        done = records.merge(done, [record])
        records.write(options.csv, done)
        if record.status == "wrong" and record.provider.startswith("kanfast"):
            wrong.append(record)
    if not options.only_measure:
        figures.main(options.csv)
        report.main(options.csv)
    for record in wrong:
        print(f"error: {record.provider} is wrong: {record.case} {record.what}", file=sys.stderr)
    return 1 if wrong else 0


def _compare(revision: str, arguments: Sequence[str]) -> int:
    position = next(n for n, text in enumerate(arguments) if text.startswith("--base"))
    length = 1 if "=" in arguments[position] else 2
    try:
        others = [*arguments[:position], *arguments[position + length :]]
        print(base.compare(revision, others))
    except base.BaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
