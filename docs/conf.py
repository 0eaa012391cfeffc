"""How Sphinx builds the site: `make docs`."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import kormos_opt

project = "kormos_opt"
author = "The kormos_opt authors"
copyright = "The kormos_opt authors, MIT licence"
version = release = kormos_opt.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = "kormos_opt"
html_copy_source = html_show_sourcelink = False
default_role = "code"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"

autosummary_generate = True
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# The pictures of the examples are committed, each beside the command that draws it, so nothing runs here.
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "plot_gallery": "False",
    "ignore_pattern": r"(__init__|data|physics)\.py",
    "remove_config_comments": True,
    "download_all_examples": False,
    "within_subsection_order": "FileNameSortKey",
}
