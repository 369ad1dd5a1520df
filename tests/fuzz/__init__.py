"""Random bytes for everything that decodes bytes. `python -m tests.fuzz CODEC --seconds N` needs atheris.

`targets` has one function for each codec, and bytes to begin with. `test_fuzz` runs each of them for a
moment, without atheris; `__main__` runs one of them under its coverage-guided engine.
"""
