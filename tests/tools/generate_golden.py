"""Write ``flopmarket/engine/golden/programs.json`` anew from the reference: ``make golden``.

Run it after a change that is meant to change a golden program. A digest of results that changes
while the program stays is a change of the law; the tool names those and refuses, unless it is given
``--new-law``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from flopmarket.engine.golden import suite

FILE = Path(suite.__file__).with_name("programs.json")


def main() -> int:
    """Exit code 1 where a result has changed and its program has not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--new-law", action="store_true", help="accept changed results")
    accepts = parser.parse_args().new_law
    before = {}
    if FILE.exists():
        before = json.loads(FILE.read_text(encoding="utf-8"))["programs"]
    text = suite.write_file()
    after = json.loads(text)["programs"]
    lawless = []
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        same_program = old and new and old["program"] == new["program"]
        print(f"{name}: {'RESULTS OF THE SAME PROGRAM' if same_program else 'program'} changed")
        if same_program:
            lawless.append(name)
    if lawless and not accepts:
        print("nothing was written; see --new-law", file=sys.stderr)
        return 1
    FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
