"""What a name in a chapter's prose means: which module's, and where the site explains it."""
import ast
import re

from convnext_nb._modidx import d as nbdev_index


def symbols() -> dict[str, dict[str, str]]:
    "All names that the library exports: name -> {module: its page and anchor}."
    found = {}
    for module, names in nbdev_index["syms"].items():
        for name, (link, _) in names.items():
            name = name.removeprefix(f"{module}.")
            found.setdefault(name, {})[module.removeprefix("convnext_nb.")] = link
    return found


def imports(nb) -> tuple[set[str], dict[str, str]]:
    "What a chapter imports from the library: whole modules, and {name: module}."
    modules, names = set(), {}
    source = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "code")
    for line in re.findall(r"^\s*(from convnext_nb\S* import (?:\([^)]*\)|.*))", source, re.M):
        statement = ast.parse(line).body[0]
        module = statement.module.removeprefix("convnext_nb").removeprefix(".")
        imported = [alias.name for alias in statement.names]
        if module: names |= dict.fromkeys(imported, module)
        else: modules |= set(imported)
    return modules, names


def exported_module(nb) -> str | None:
    "The module that a chapter exports, if it exports one."
    found = re.search(r"^#\|\s*default_exp\s+(\w+)", "\n".join(c.source for c in nb.cells), re.M)
    return found[1] if found else None


def meanings(nb) -> dict[str, str]:
    """What a chapter means by a name: name -> page and anchor.

    Its own names come first, then those that it imports, then those of modules that it imports. A
    name of another module counts if no second module has it and it is not a plain word, as `step`.
    """
    every, (modules, names) = symbols(), imports(nb)
    own = exported_module(nb)
    found = {}
    for name, places in every.items():
        near = modules & set(places)
        if own in places: found[name] = places[own]
        elif names.get(name) in places: found[name] = places[names[name]]
        elif len(near) == 1: found[name] = places[near.pop()]
        elif len(places) == 1 and (name in names or not re.fullmatch("[a-z]+", name)):
            found[name], = places.values()
    return found
