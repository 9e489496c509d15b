"""The run's configuration; imports no torch.

`load_settings(path, overrides)` reads a TOML file into `Settings`; `parse_settings` and
`dump_settings` turn tables and JSON into it and back (all in `settings/load.py`). The tables are in
`settings/tables.py` and `settings/rollout_table.py`; those that a library gets as they stand are
checked by `check_library_table` (`settings/library.py`) against the library's own fields.
"""
