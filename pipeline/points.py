"""List the points of params.yaml, show one, rename one, or remove what no point needs.

list [NAME ...]          each point with its state, its size on the disk and its overrides
show NAME                how each of its artifacts came to be: when, where, in what time, and why
rename OLD NEW           its artifacts stay: DVC finds them in its cache
prune [NAME ...] [--yes] drop these points; remove folders of points that are gone, and what DVC's cache holds for none.
                         Without --yes it only tells what it would remove, and how much space that gives back.
"""

from collections.abc import Callable, Sequence

from pipeline.config import points
from pipeline.core import errors, usage
from pipeline.core.errors import Problem, UserError
from pipeline.sweeps import upkeep
from pipeline.sweeps.view import view


def show_list(names: Sequence[str]) -> None:
    """Print a line for each point."""
    print(*upkeep.table(_known(names) or list(points.read())), sep="\n")


def show(names: Sequence[str]) -> None:
    """Print how a point's artifacts came to be."""
    (name,) = _known(_exactly(names, "NAME"))
    print(*upkeep.details(name), sep="\n")


def rename(names: Sequence[str]) -> None:
    """Give a point another name."""
    old, new = _exactly(names, "OLD", "NEW")
    _known([old])
    with view([new], {}) as progress:
        upkeep.rename(old, new, progress)
    print(f"{old} is now {new}")


def prune(names: Sequence[str], sure: bool) -> None:
    """Drop points, and remove what no point needs; without `sure` tell what that would be."""
    dropped = _known(names)
    if dropped and not sure:
        print(f"would drop {', '.join(dropped)} from {points.FILE}; what follows does not count what only they need")
    if sure:
        points.drop(dropped)
    found = upkeep.garbage()
    for folder in found.folders:
        print(f"{'removing' if sure else 'would remove'} {folder}")
    cached, freed = upkeep.megabytes(found.cached_bytes), upkeep.megabytes(found.folder_bytes + found.cached_bytes)
    print(f"{found.cached} files of DVC's cache, {cached}, belong to no point; {freed} in all")
    if sure:
        upkeep.remove(found)
    elif dropped or found.folders or found.cached:
        print("--yes removes them; other branches and clones that share the cache may need them")


def _known(names: Sequence[str]) -> list[str]:
    """Return the names; raise UserError with those that are no points."""
    known = points.read()
    fix = f"choose from {', '.join(known) or 'none: params.yaml has no points'}"
    problems = [Problem(f"there is no point {name!r}", str(points.FILE), fix) for name in names if name not in known]
    if problems:
        raise UserError(problems)
    return list(names)


def _exactly(names: Sequence[str], *wanted: str) -> Sequence[str]:
    if len(names) != len(wanted):
        what = f"{len(names)} names are given, {len(wanted)} are needed"
        raise UserError(Problem(what, " ".join(wanted), f"give {' '.join(wanted)}"))
    return names


def main() -> None:
    """Run the command."""
    actions: dict[str, Callable[[Sequence[str]], None]] = {"list": show_list, "show": show, "rename": rename}
    parser = usage.Parser(main, "points", "list|show|rename|prune [NAME ...] [--yes]")
    parser.add_argument("action", metavar="ACTION", nargs="?", default="list", help=f"{', '.join(actions)}, prune")
    parser.add_argument("names", metavar="NAME", nargs="*", help="points of params.yaml")
    parser.add_argument("--yes", action="store_true", help="of prune: remove")
    given = parser.parse()
    if given.action == "prune":
        prune(given.names, given.yes)
    elif given.action in actions:
        actions[given.action](given.names)
    else:
        fix = f"choose from {', '.join(actions)}, prune"
        raise UserError(Problem(f"there is no action {given.action!r}", "ACTION", fix))


if __name__ == "__main__":
    errors.run(main)
