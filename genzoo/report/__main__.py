"""python -m genzoo.report outputs/demo [...] [-o folder]: writes the report. --status STUDY: prints the grid."""

import argparse
import sys
from pathlib import Path

from genzoo.report import study
from genzoo.report.page import write


def main(argv: list[str] | None = None) -> int:
    """Parses the command line, then reports.

    Exit code 2 when there is nothing to report on; of --status 0 when every cell is finished, 1 when not; else 0.
    """
    parser = argparse.ArgumentParser(prog="python -m genzoo.report", description="Sets finished runs side by side.")
    parser.add_argument("folders", nargs="*", type=Path, help="run folders, or folders with runs below them")
    parser.add_argument("-o", "--out", type=Path, help="where to write (default: report/ in the first folder)")
    parser.add_argument("--status", metavar="STUDY", help="print the state of each cell of a study: its name or folder")
    parser.error = lambda message: parser.exit(2, f"genzoo: {message}; --help says what there is\n")
    args = parser.parse_args(argv)
    if bool(args.folders) == bool(args.status):
        parser.error("give folders to report on, or --status with one study")
    try:
        return _status(args.status) if args.status else _report(args.folders, args.out)
    except (OSError, ValueError) as error:
        print(f"genzoo: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("genzoo: stopped", file=sys.stderr)
        return 130


def _report(folders: list[Path], out: Path | None) -> int:
    page = write(folders, out or folders[0] / "report")
    print(f"{page} (and table.md, table.csv, table.tex, samples.png, figures/ beside it)")
    return 0


def _status(name: str) -> int:
    """A name without a slash is a study of outputs/."""
    found = study.study(Path(name) if "/" in name else Path("outputs", name))
    print(study.status(found))
    return 0 if study.is_finished(found) else 1


if __name__ == "__main__":
    sys.exit(main())
