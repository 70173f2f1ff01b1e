"""python -m genzoo.report outputs/demo [outputs/b ...] [-o folder]: writes the report, says where."""

import argparse
import sys
from pathlib import Path

from genzoo.report.page import write


def main(argv: list[str] | None = None) -> int:
    """Parses the command line, writes the report; 2 when there is nothing to report on, else 0."""
    parser = argparse.ArgumentParser(prog="python -m genzoo.report", description="Sets finished runs side by side.")
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, or folders with runs below them")
    parser.add_argument("-o", "--out", type=Path, help="where to write (default: report/ in the first folder)")
    args = parser.parse_args(argv)
    try:
        page = write(args.folders, args.out or args.folders[0] / "report")
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{page} (and table.md, table.csv, samples.png beside it)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
