"""A sandbox for untrusted Python programs. The guest's side imports the standard library alone.

    host side    settings  launch  sandbox  pool      the run's own process
    guest side   guest > keeper > program, examiner   inside; all but the program is trusted
                 root  confine  kernel  syscalls      what the guest gives up, and how
                 plain_data                           what passes between program and examiner

`guest.py` is the fork server of one sandbox; for each job a keeper forks the program, which gets
namespaces, limits and a private /tmp of its own, and an examiner, which holds the tests.
"""
