"""Which room may use which: the direction of imports, and what stays out of a short command."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cbmir.schema import point_id

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cbmir", "ingest", "search", "evaluate")
"""The folders; the modules of the last three are named `cbmir.ingest` and so on."""

ALLOWED = {
    "cbmir": {"cbmir"},
    "ingest": {"ingest", "cbmir"},
    "search": {"search", "cbmir"},
    "evaluate": {"evaluate", "search", "cbmir"},
}
UPWARD = {ROOT / "cbmir/cli.py", ROOT / "cbmir/api.py", ROOT / "cbmir/__init__.py"}
"""Files of the core that may use the other folders: inside functions, and for the type checker."""

ENGINES = {"qdrant_client", "qdrant_edge"}
NETWORKS = {"torch", "torchvision", "timm", "open_clip", "transformers", "huggingface_hub"}


def _files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def _modules(nodes: list[ast.stmt]) -> Iterator[str]:
    """The full names of all modules imported below some nodes."""
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _imports(nodes: list[ast.stmt]) -> Iterator[str]:
    """The top-level names of all imports below some nodes; of ours, the folder."""
    for name in _modules(nodes):
        first, _, rest = name.partition(".")
        second = rest.partition(".")[0]
        yield second if first == "cbmir" and second in PACKAGES else first


def _on_import(nodes: list[ast.stmt]) -> list[ast.stmt]:
    """The statements that run when a module is imported: none in functions, none for the type checker."""
    found: list[ast.stmt] = []
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            found += _on_import(node.orelse)
        elif isinstance(node, ast.ClassDef | ast.If | ast.Try | ast.With):
            found += _on_import([inner for inner in ast.iter_child_nodes(node) if isinstance(inner, ast.stmt)])
        else:
            found.append(node)
    return found


def _tree(path: Path) -> list[ast.stmt]:
    return ast.parse(path.read_text(encoding="utf-8")).body


@pytest.mark.parametrize("package", PACKAGES)
def test_imports__go_one_way(package):
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / package).rglob("*.py")
        for name in _imports(_on_import(_tree(path)) if path in UPWARD else _tree(path))
        if name in PACKAGES and name not in ALLOWED[package]
    ]
    assert wrong == []


def test_imports__only_the_store_talks_to_the_engines():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in _files()
        for name in _imports(_tree(path))
        if name in ENGINES and path != ROOT / "cbmir/filters/engines.py" and path.parent != ROOT / "cbmir/store"
    ]
    assert wrong == []


def test_imports__networks_inside_functions_only():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in _files()
        for name in _imports(_on_import(_tree(path)))
        if name in NETWORKS
    ]
    assert wrong == []


def test_imports__analyses_know_no_command_line():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / "evaluate").rglob("*.py")
        for name in _modules(_tree(path))
        if name.startswith(("click", "cbmir.options.", "cbmir.limit_options."))
        if path.name not in ("cli.py", "__main__.py")
    ]
    assert wrong == []


def test_output__goes_through_the_one_place_that_escapes_it():
    """Of `cbmir.options`: `echo`, `say` and `print_json`."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in _files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "click.echo", "click.secho", "tqdm.write")
        if path != ROOT / "cbmir/options.py"
    ]
    assert wrong == []


def test_imports__relative_ones_are_not_used():
    wrong = [
        str(path.relative_to(ROOT))
        for path in _files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert wrong == []


def test_imports__have_one_name_for_each_file():
    """In this folder `import evaluate` finds a file too, but as another module than `cbmir.evaluate`."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for folder in (*PACKAGES, "tests", "benchmarks", "examples", "deploy")
        for path in (ROOT / folder).rglob("*.py")
        for name in _modules(_tree(path))
        if name.partition(".")[0] in PACKAGES[1:]
    ]
    assert wrong == []


def test_tests__are_flat():
    """A folder tests/search would be imported instead of the package."""
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
    assert folders <= {"golden", "__pycache__"}
    assert not (ROOT / "tests" / "__init__.py").exists()


IN_PROCESS = """
import sys
from cbmir.__main__ import main
sys.argv = ["cbmir", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    print("exit code", end.code, file=sys.stderr)
heavy = {"torch", "timm", "open_clip", "transformers", "pandas", "pyarrow", "h5py", "qdrant_client", "matplotlib"}
print("heavy", sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["collections", "list", "--store", "STORE"],
        ["collections", "show", "eight", "--store", "STORE"],
        ["encoders", "list"],
        ["search", "--help"],
        ["search", "like", point_id("synthetic", "00003.png"), "--store", "STORE", "--collection", "eight", "--json"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_command__imports_nothing_heavy(arguments, shelf, tmp_path):
    words = [str(shelf) if word == "STORE" else word for word in arguments]
    done = subprocess.run(
        [sys.executable, "-c", IN_PROCESS, *words], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.stderr.splitlines()[-2:] == ["exit code 0", "heavy []"], done.stderr
