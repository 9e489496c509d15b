"""The guard against foreign packages of the same names.

Sparring's top-level packages have generic names and are installed editable, so another project on
the path can stand in for one of them without any error. Leaves out the libraries' versions: the run
directory records those.
"""

import importlib.util
from pathlib import Path

PACKAGES = ("pipelines", "model", "rewards", "critic", "data")


def require_checkout(root: Path | None = None) -> None:
    """Refuse to start where one of the five packages would be imported from another place.

    Args:
        root: the checkout; by default the one that holds this file.

    Raises:
        ValueError: a package cannot be found, or resolves outside the checkout.
    """
    root = (root or Path(__file__).parents[1]).resolve()
    for name in PACKAGES:
        found = package_folders(name)
        if not found:
            raise ValueError(
                f"package {name!r} cannot be imported: run `make setup` in {root} and start with "
                "its .venv"
            )
        foreign = [folder for folder in found if folder != root / name]
        if foreign:
            raise ValueError(
                f"package {name!r} resolves to {foreign[0]}, outside the checkout {root}: start "
                "with this checkout's own .venv (`make setup`), and remove that folder from "
                "PYTHONPATH or uninstall the package that brought it"
            )


def package_folders(name: str) -> tuple[Path, ...]:
    """The folders that `import name` would read, without importing it; empty where it fails."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return ()
    if spec.submodule_search_locations is None:  # a plain module such as data.py
        return (Path(spec.origin or name).resolve(),)
    return tuple(Path(folder).resolve() for folder in spec.submodule_search_locations)
