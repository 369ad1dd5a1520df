"""How the documentation is built: `make docs`; a warning is an error."""

project = "Barque"
author = "The Barque authors"
extensions = ["myst_parser"]
html_theme = "furo"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository outside docs/
