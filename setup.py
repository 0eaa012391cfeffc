"""What pyproject.toml cannot say: the page of the package index has no folder beside it, so its links are absolute.

The environment variable PROJECT_ADDRESS has the address of the repository when a release is built. Without it the links
stay relative and the package names no address.
"""

import os
import re
from pathlib import Path

from setuptools import setup

ADDRESS = os.environ.get("PROJECT_ADDRESS")
README = Path(__file__).parent.joinpath("README.md").read_text(encoding="utf-8")
URLS = {}

if ADDRESS:
    README = re.sub(r"(!\[[^]]*\]\()(?!http)", rf"\g<1>{ADDRESS}/raw/main/", README)
    README = re.sub(r"((?<!!)\[[^]]*\]\()(?!http)", rf"\g<1>{ADDRESS}/blob/main/", README)
    URLS = {"Source": ADDRESS, "Issues": f"{ADDRESS}/issues", "Changelog": f"{ADDRESS}/blob/main/CHANGELOG.md"}

setup(long_description=README, long_description_content_type="text/markdown", project_urls=URLS)
