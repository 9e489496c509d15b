"""The programs of Sparring: the self-play loop, cold start, evaluation, report and data commands.

`rl.py` is the loop and reads straight down; the other files hold one stage each. Policies live in
`model/`, verdicts in `rewards/`, critiques and the monitor in `critic/`, records in `data/`.
"""
