"""Say where the packages lie; everything else about the distribution stands in pyproject.toml.

`projects/dino` becomes `crossstage.projects.dino`, and `configs/common` becomes `crossstage.configs.common`. In a
checkout `crossstage/projects/__init__.py` and `crossstage/configs/__init__.py` find the same folders by their path.
"""

from setuptools import find_namespace_packages, setup

packages = find_namespace_packages(include=["csla*", "dca*", "crossstage*"])
package_dir = {}
for top in ("projects", "configs"):
    for name in find_namespace_packages(top):
        packages.append(f"crossstage.{top}.{name}")
        if "." not in name:
            package_dir[packages[-1]] = f"{top}/{name}"

setup(packages=packages, package_dir=package_dir, package_data={"": ["*.md", "py.typed", "*.json"]})
