"""A sandbox for untrusted Python programs; imports nothing outside the standard library.

    host side    settings  launch  sandbox  pool        the run's own process
    guest side   guest → keeper → program, examiner     inside the namespaces; trusted but the program
                 kernel  syscalls  root  plain_data     what the guest is built from

`guest.py` is the fork server of one sandbox; for each job a keeper forks the program, which gets
namespaces, limits and a private /tmp of its own, and an examiner, which holds the tests.
"""
