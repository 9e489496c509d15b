"""Runs one command, and ends its whole process group when the command or the trainer ends.

With the trainer gone it also removes the folder of the weights handed over, which lies in memory.

A vLLM server is several processes, some of which outlive a `kill -9` of their parent and keep its
memory. The trainer starts this in a session of its own; it imports nothing that takes time.
"""

import os
import shutil
import signal
import subprocess
import sys
import time

POLL_SECONDS = 0.5


def main(arguments: list[str]) -> None:
    """`arguments`: the trainer's process id, the folder, then the command."""
    trainer, folder, command = int(arguments[0]), arguments[1], arguments[2:]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    while child.poll() is None and os.getppid() == trainer:
        time.sleep(POLL_SECONDS)
    if os.getppid() != trainer:
        shutil.rmtree(folder, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)  # this process too


if __name__ == "__main__":
    main(sys.argv[1:])
