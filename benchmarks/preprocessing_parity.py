"""Random configurations of Transformers and timm: the runtime's pixels against theirs, or a refusal with its reason.

    python benchmarks/preprocessing_parity.py --count 300 --seed 0

The exit code is 1 if any pixels differ by more than one level of 8 bits, or if a refusal names a wrong reason.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from preprocessing_parity import (  # noqa: E402
    Outcome,
    compare_processor,
    compare_timm,
    random_image,
    random_processor,
    random_timm,
)


def main() -> int:
    """Compare, print a row for each library, and the configurations that fail."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, metavar="N", help="configurations of each library")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the first configuration")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    seeds = range(options.seed, options.seed + options.count)
    results = {"Transformers": [*map(_processor, seeds)], "timm": [*map(_timm, seeds)]}
    for library, outcomes in results.items():
        print(f"{library}: {_summary(outcomes)}")
    failed = [each for outcomes in results.values() for each in outcomes if each.kind not in ("equal", "refused")]
    for each in failed:
        print(f"{each.kind}: {each.detail}\n  {json.dumps(each.config)}")
    return bool(failed)


def _processor(seed: int) -> Outcome:
    rnd = random.Random(seed)
    return compare_processor(random_processor(rnd), (random_image(rnd), random_image(rnd)))


def _timm(seed: int) -> Outcome:
    rnd = random.Random(seed)
    return compare_timm(random_timm(rnd), random_image(rnd))


def _summary(outcomes: Iterable[Outcome]) -> str:
    kinds = Counter(each.kind for each in outcomes)
    reasons = Counter(each.detail for each in outcomes if each.kind == "refused")
    refused = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    return (
        f"equal {kinds['equal']}, refused {kinds['refused']} ({refused}), different {kinds['different']}, "
        f"refused for a wrong reason {kinds['wrong reason']}"
    )


if __name__ == "__main__":
    sys.exit(main())
