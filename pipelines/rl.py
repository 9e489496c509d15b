"""Self-play: the learner solves, the critic judges, the monitor may stop the run.

    accelerate launch pipelines/rl.py --config configs/tiny.toml [table.key=value ...]
    accelerate launch pipelines/rl.py --resume runs/tiny [run.rounds=N]
    python pipelines/rl.py --keys [PREFIX]              what may stand in a configuration

    tasks -> proposals     (if asked: the learner writes some, paid for middling pass rates)
          -> learner block (vLLM rollouts -> verdicts -> pointings, tested -> GRPO steps)
          -> critic block  (imitates true critiques -> GRPO on its own -> taken back if worse)
          -> gate          (verified, criticised, deduplicated, decontaminated records)
          -> feedback      (if asked: supervised steps on the run's admitted records)
          -> monitor       (gold probe, audit -> ok | warn | intervene | halt)
          -> selection     (now and then, if asked: mean@k on tasks of its own)
          -> commit        (admit, intervene, one atomic checkpoint, RUN/best)

This file is the loop. What is asked and how it is scored is in `game/`, how a block trains in
`training/`, who samples in `rollouts/`; `run/` builds the parts, keeps them and ends them. Leaves
out the cold start (`sft.py`). Exit status: 0 finished, 2 a user's mistake, 3 halted by the monitor,
4 a weight sync that could not be proven, 5 a rollout server that could not be kept alive.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.errors import UserError, full_disk_as_user_error
from pipelines.process import fail_clearly, prepare_process, require_checkout
from pipelines.run.early import check_early
from pipelines.run.progress import Progress
from pipelines.run.resumed import resume_settings
from pipelines.settings.load import load_settings
from pipelines.settings.reference import show_keys
from pipelines.settings.tables import Settings

HALTED = 3


def self_play(settings: Settings, resume: bool, progress: Progress) -> int:
    """Run the rounds that remain; returns the exit status."""
    from pipelines.run.ending import finish, halt  # only now: the process is prepared,
    from pipelines.run.session import Run  # and these import torch

    room = full_disk_as_user_error(settings.run.directory)
    with Run(settings, resume, progress) as run, room:
        run.start()
        timed = run.stages.timed
        for plan in run.rounds():
            with timed("proposals"):
                run.proposer.train(plan)
            with timed("learner block"):
                bouts = run.learner_game.play(run.starts(plan), plan)
            with timed("critic block"):
                run.critic_game.train(bouts, plan)
            with timed("gate"):
                records = run.gate(bouts, run.archive(), plan.round)
            with timed("feedback"):
                run.feedback.train(records, run.recent(), plan)
            with timed("probe and audit"):
                probe, fed = run.examiner.probe(plan, bouts), run.feedback.fed_accuracy
                if run.monitor.wants_more(bouts, probe, fed):
                    num = run.monitor.settings.reads_again
                    probe = run.examiner.again(plan, probe, num)
            with timed("monitor"):
                health = run.monitor.check(bouts, probe, fed)
            if health.halted:
                halt(run, plan, bouts, probe, health)
                return HALTED
            with timed("evaluation"):
                evaluation = run.selection.after(plan.round)
            run.commit(plan, bouts, records, probe, health, evaluation)
        finish(run)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, help="TOML configuration of a new run")
    parser.add_argument("--resume", type=Path, help="run directory to continue")
    parser.add_argument(
        "--keys",
        metavar="PREFIX",
        nargs="?",
        const="",
        help="list every configuration key, or those of a table, and stop",
    )
    parser.add_argument("overrides", nargs="*", help="table.key=value")
    options = parser.parse_intermixed_args(arguments)
    with fail_clearly():
        if options.keys is not None:
            show_keys(options.keys)
            return 0
        require_checkout()
        if (options.config is None) == (options.resume is None):
            raise UserError("give either --config configs/NAME.toml or --resume RUN")
        resume = options.resume is not None
        if resume:
            settings = resume_settings(options.resume, options.overrides)
        else:
            settings = load_settings(options.config, options.overrides)
        check_early(settings, resume)  # a typo fails at once, before torch is imported
        with Progress() as progress:
            progress.begin("loading PyTorch, TRL and the engine: some 20 seconds")
            prepare_process()
            return self_play(settings, resume, progress)


if __name__ == "__main__":
    sys.exit(main())
