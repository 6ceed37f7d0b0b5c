"""Other people's lists of actions, each layout read by a module of its own and written as our own lists.

`layouts` has their table, `listing` what a reader makes, `written` the folder that comes out: a targets.toml
and CSV files, which every command takes as `--annotations` (`extract.data_set`).
"""
