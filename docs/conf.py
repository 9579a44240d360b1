"""Configuration of Sphinx, which makes the site: ``make docs``."""

from importlib.metadata import version as installed

project = "Thinwire"
author = "The Thinwire authors"
project_copyright = "The Thinwire authors, Apache-2.0"
version = release = installed("thinwire")

extensions = [
    "myst_parser",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
highlight_language = "none"  # of blocks that name none: commands and output
html_theme = "furo"
html_title = "Thinwire"

myst_heading_anchors = 4  # the anchors that forges give headings

napoleon_google_docstring = False
napoleon_use_ivar = True
# What a package hands on stands in the module that defines it.
autodoc_default_options = {"ignore-module-all": True}
suppress_warnings = ["ref.python"]  # types of parameters are prose: "path" may match several names

# What others build on: the face, the joints, the methods. What a process does with them is not.
INTERNAL = (
    *("build.py", "client", "client_app.py", "command", "faults", "preflight", "pretraining"),
    *("run.py", "server", "server_app.py", "simulation", "sweep"),
)
apidoc_separate_modules = True
apidoc_module_first = True
apidoc_modules = [
    {
        "path": "../fl_app",
        "destination": "api/fl_app",
        "exclude_patterns": [f"../fl_app/{name}" for name in INTERNAL],
    },
    {"path": "../strategies", "destination": "api/strategies"},
]
