"""Assembles the reader into one file, which needs neither Keras nor `anytime_keras`."""

import ast
import collections
import pathlib

FOLDER = pathlib.Path(__file__).parents[2]  # the package
MODULES: tuple[str, ...] = ("_errors", "_checks", "_forks")
MODULES += ("inference/answers", "inference/early_exit", "inference/thresholds")
MODULES += ("data/crops", "preprocessing/decoding", "preprocessing/host", "conversion/runtimes")
MODULES += tuple(f"export/reader/{name}" for name in ("description", "inputs", "stages", "exported", "command"))
HEAD = '''"""Runs an exported anytime network, whole or stage by stage until a deadline, or with early exit.

It requires NumPy, the runtime of the export's format and, for image files, Pillow, but neither Keras nor
`anytime_keras`, whose modules it was assembled from, so the folder can be copied to other machines. On the command
line, it measures the latency of each exit: `python run_exported.py --deadline=0.01`.
"""
'''


# Pillow is needed for raw images only: the network's inputs can be given as arrays.
PILLOW = '''try:
    from PIL import {names}
except ImportError:

    class _NoPillow:
        Image, DecompressionBombError = (), OSError  # no object is an instance of ()

        def __getattr__(self, name):
            raise ImportError("Image files, and images of another size than the network's, need: `pip install pillow`.")

    {missing} = _NoPillow()
'''


def assemble():
    """Returns the source of `run_exported.py`: the modules without their docstrings and imports of each other.

    Example:
    >>> source = assemble()
    >>> "\\nimport keras" in source, "\\nfrom anytime_keras" in source
    (False, False)
    """
    imports, names_from, bodies = set(), collections.defaultdict(set), []
    for module in MODULES:
        source = (FOLDER / f"{module}.py").read_text(encoding="utf-8")
        lines, tree = source.splitlines(keepends=True), ast.parse(source)
        left_out = [tree.body[0]]  # the docstring
        for node in tree.body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                left_out.append(node)
                if isinstance(node, ast.Import):
                    imports.add(ast.unparse(node))
                elif not node.module.startswith("anytime_keras"):
                    names_from[node.module].update(map(ast.unparse, node.names))
        for node in left_out:
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
        bodies.append(f"# {module}\n\n" + "".join(lines).strip())
    names = sorted(names_from.pop("PIL"))
    imports |= {f"from {module} import {', '.join(sorted(found))}" for module, found in names_from.items()}
    third_party = [line for line in imports if "numpy" in line]
    standard = sorted(imports.difference(third_party))
    optional = PILLOW.format(names=", ".join(names), missing=" = ".join(names))
    parts = [HEAD, "\n".join(standard) + "\n\n" + "\n".join(third_party) + f"\n\n{optional}"]
    parts += [body + "\n" for body in bodies]
    return "\n\n".join(parts) + '\n\nif __name__ == "__main__":\n    main()\n'
