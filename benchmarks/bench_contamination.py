"""Which planted evaluation texts are found, and which foreign ones are called contaminated?

    python benchmarks/bench_contamination.py HumanEval.jsonl.gz mbpp.jsonl [train.jsonl ...]

Each text of the first file (HumanEval's, of the repository openai/human-eval) is planted between
two sentences of the standard library's documentation, once in each way; the other files are foreign
data, whose alarms are listed for a person to judge. benchmarks/results/contamination.json has the
counts and the alarms' words. Leaves out paraphrases and translations, which the rule cannot see.
"""

import argparse
import random
import sys
import time
from pathlib import Path

from harness import ROOT, context, write_result

from data.contamination import Contamination
from data.foreign import asked_in, rows_of, texts_in

sys.path.append(str(ROOT / "tests" / "support"))

from planted import full_width, restyled, reworded, sentences, verbatim

WAYS = {
    "verbatim": verbatim,
    "other case, marks and line breaks": restyled,
    "full-width characters": full_width,
    "every 15th word exchanged": reworded(15),
    "every 12th": reworded(12),
    "every 10th": reworded(10),
    "every 8th": reworded(8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("known", help="file of evaluation texts")
    parser.add_argument("foreign", nargs="*", help="files of others")
    options = parser.parse_args()
    known = [text for row in rows_of(options.known) for text in asked_in(row, ())]
    index, around = Contamination(known), sentences(3, 60)
    print(f"{len(known)} texts of {Path(options.known).name}\n\n| planted | found |\n|---|---|")
    found, made = {}, context({"plants": 1})
    for way, plants in WAYS.items():
        rng = random.Random(0)
        found[way] = sum(bool(index.overlap(plants(text, around, rng))) for text in known)
        print(f"| {way} | {found[way]}/{len(known)} |")
    alarms = {"the documentation's sentences": [s for t in around if (s := index.overlap(t))]}
    sizes, seconds = {"the documentation's sentences": len(around)}, 0.0
    for source in options.foreign:
        name, begun = Path(source).name, time.process_time()
        shared = [
            next((s for text in texts_in(row) if (s := index.overlap(text))), "")
            for row in rows_of(source)
        ]
        seconds += time.process_time() - begun
        sizes[name], alarms[name] = len(shared), [one for one in shared if one]
    print("\n| foreign | rows | alarms |\n|---|---|---|")
    for name, own in alarms.items():
        print(f"| {name} | {sizes[name]} | {len(own)}{': ' if own else ''}{'; '.join(own[:5])} |")
    if seconds:
        rate = sum(sizes[Path(source).name] for source in options.foreign) / seconds
        print(f"\n{rate:.0f} foreign rows a second of processor time")
    result = {"context": made, "texts": len(known), "found": found, "rows": sizes, "alarms": alarms}
    write_result("contamination", result)


if __name__ == "__main__":
    main()
